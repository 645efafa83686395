"""The passes preserve what the reference model writes: whatever they make of a program, it reads the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.errors import EvaluationError
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Embed, Input, Search
from weft.graph.ops.control import Cond, Loop, Map
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.ops.user import Generate
from weft.graph.passes import GUESS, OPTIONAL
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import JsonSchema, Sampling
from weft.graph.types import INTEGER, STRINGS
from weft.graph.values import Datum, Json, KvValue, TextValue
from weft.runtime.config import REFERENCE_MODEL
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.llm.context import Context
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import load_model
from weft.runtime.llm.requests import Event, Finished, GenerateRequest, Request, Scored, ScoreRequest
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.orchestrator.chat import TemplateRenderer
from weft.runtime.worker.engines.contexts import read, write
from weft.runtime.worker.engines.scoring import align, judge

from .conftest import Engines, Interpreter, programs
from .test_equivalence import ALONE

FACTS: Final = "Atlas is a company in Zurich. Its head is Mira Stein. It makes paper, glass and rope."
LONG: Final = f"Answer from the facts. {FACTS * 3}"
BEGINNINGS: Final = ("", "List: ", f"{LONG} Name one: ", f"{LONG} Why: ")
SAMPLING: Final = Sampling(max_tokens=16)


class Reference(Engines):
    """The reference model, beside stand-ins for all else. It is asked for each text once."""

    def __init__(self, model: LLMEngine, tokenizer: Tokenizer, written: dict[Request, Event]) -> None:
        super().__init__()
        self._model = model
        self._tokenizer = tokenizer
        self._written = written
        self._contexts: dict[str, Context] = {}

    def compute(self, op: Op, args: Mapping[str, Datum]) -> tuple[Datum, ...]:
        kv = args.get("kv")
        context = self._contexts[kv.key] if isinstance(kv, KvValue) else Context.empty(self._tokenizer)
        match op:
            case Prefill(pieces=pieces):
                return (self._held(read(context, pieces, args)),)
            case Decode(sampling=sampling, constraint=constraint):
                self.decodes += 1
                done = self._ask(GenerateRequest(context.ids(), "", 0, sampling, constraint))
                assert isinstance(done, Finished)
                covered = len(done.text) - len(done.tail)
                text = TextValue(done.text, done.ids, self._tokenizer.fingerprint, covered)
                return self._held(write(context, text)), text
            case Score(choices=choices, method=method):
                aligned = align(context.ids(), [context.append_text(choice).ids() for choice in choices])
                scored = self._ask(ScoreRequest(aligned.prefix, aligned.options))
                assert isinstance(scored, Scored)
                chosen, scores = judge(method, aligned.options, scored.logprobs, ())
                return TextValue(choices[chosen]), Json(scores)
            case _:
                return super().compute(op, args)

    def _held(self, context: Context) -> KvValue:
        key = str(len(self._contexts))
        self._contexts[key] = context
        return KvValue(key)

    def _ask(self, request: Request) -> Event:
        if request not in self._written:
            ((*_, self._written[request]),) = run_requests(self._model, [request], timeout=60)
        return self._written[request]


@pytest.fixture(scope="module")
def new_engines() -> Iterator[Callable[[], Reference]]:
    tokenizer = Tokenizer.from_folder(REFERENCE_MODEL)
    written: dict[Request, Event] = {}
    with LLMEngine(load_model(REFERENCE_MODEL), tokenizer) as model:
        yield lambda: Reference(model, tokenizer, written)


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    template = ChatTemplate.from_folder(REFERENCE_MODEL)
    assert template is not None
    spec = ModelSpec("m", 4096, TemplateRenderer(template.to_json()))
    return Deployment({"m": spec}, "m", indexes=frozenset({"docs"}), batches={"embed": 2})


def shortened(graph: Graph) -> Graph:
    """The graph with short texts, in bodies too."""
    return graph.with_nodes(replace(node, op=_shortened(node.op)) for node in graph)


def _shortened(op: Op) -> Op:
    match op:
        case Generate():
            return replace(op, sampling=SAMPLING)
        case Map(body=body) | Loop(body=body):
            return replace(op, body=shortened(body))
        case Cond(then=then, otherwise=otherwise):
            return replace(op, then=shortened(then), otherwise=shortened(otherwise))
        case _:
            return op


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(graph=programs(BEGINNINGS), p=st.sampled_from(["Who?", "Rope"]), seed=st.integers(0, 99))
def test_programs_give_the_same_with_and_without_passes(
    graph: Graph, p: str, seed: int, new_engines: Callable[[], Reference], deployment: Deployment
) -> None:
    short, inputs = shortened(graph), {"p": p, "q": "What is made of glass?"}
    plain = Interpreter(short, inputs, OPTIONAL, seed, new_engines(), deployment)
    try:
        expected = plain.run()
    except EvaluationError:
        reject()  # the model has listed nothing, and the program takes the first of it
    for disabled in ([], *ALONE):
        optimized = Interpreter(short, inputs, disabled, seed, new_engines(), deployment)
        assert optimized.run() == expected
        assert optimized.engines.stored == plain.engines.stored


def test_a_program_that_every_pass_changes_gives_the_same(
    new_engines: Callable[[], Reference], deployment: Deployment
) -> None:
    """A list of queries, a search for each, two prompts that begin alike and end with what was found."""

    def prompt(text: str) -> tuple[Message, ...]:
        return (Message("user", (f"{LONG} {text}: ", Slot("v"))),)

    listed = Generate(prompt("List"), STRINGS, SAMPLING, JsonSchema(STRINGS.schema))
    nodes = (
        Node(0, Input("p")),
        Node(1, listed, {"v": Value(0)}),
        Node(2, Const("2", INTEGER)),
        Node(3, Search("empty"), {"query": Value(1), "k": Value(2)}),
        Node(4, Generate(prompt("Why"), sampling=SAMPLING), {"v": Value(3)}),
        Node(5, Generate(prompt("Why"), sampling=SAMPLING), {"v": Value(3)}),
        Node(6, Input("texts", STRINGS)),
        Node(7, Embed(), {"texts": Value(6)}),
    )
    graph = Graph(nodes, (Value(4), Value(5), Value(7)))
    inputs = {"p": "Atlas", "texts": ["a", "b", "c"]}
    plain = Interpreter(graph, inputs, OPTIONAL, 0, new_engines(), deployment)
    full = Interpreter(graph, inputs, (), 0, new_engines(), deployment)
    assert full.run() == plain.run()
    assert {report.name for report in full.live.reports if report.changes} >= set(OPTIONAL) - {GUESS}
