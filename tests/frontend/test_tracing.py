"""What programs become: the graphs as written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, BaseModel, Field, PlainSerializer, PlainValidator, WithJsonSchema

from weft import (
    Context,
    Message,
    RetryPolicy,
    Static,
    TimeoutPolicy,
    Var,
    embed,
    gen,
    program,
    rerank,
    search,
    server_tool,
    tool,
)
from weft.graph.ir import Graph
from weft.graph.ops.common import Input, Project
from weft.graph.ops.user import Generate
from weft.graph.sampling import Choices, JsonSchema, Regex, Sampling
from weft.graph.types import TEXT, Data

from .traced import State, Typed, last, text_of


class Step(BaseModel):
    tool: Literal["search", "finish"]
    input: str
    rest: list[Step] = Field(default_factory=list)


class Aliased(BaseModel):
    kind: str = Field(alias="type")


class Renamed(BaseModel):
    """Fields that JSON calls otherwise where it is read than where it is written."""

    read: str = Field(validation_alias="readAs")
    either: str = Field(validation_alias=AliasChoices("eitherAs", "either"))
    written: str = Field(serialization_alias="writtenAs")


WRONG: Any = "none"  # a default that is not of its type, as no type checker would let pass


class Loose(BaseModel):
    note: str | None = None
    tags: list[str] = Field(default_factory=lambda: ["new"])
    needed: str
    wrong: int = Field(default=WRONG)


class Code:
    """What pydantic knows by its annotation alone."""

    def __init__(self, text: str) -> None:
        self.text = text


class Coded(BaseModel):
    code: Annotated[Code, PlainValidator(Code), PlainSerializer(lambda code: code.text, return_type=str)]


@dataclass
class Plan:
    steps: list[Step]
    title: str | None = None


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@tool
def calculator(expression: str, digits: int = 2) -> float:
    """Compute."""
    return 1.0


@tool(pure=True, timeout=2, retry=RetryPolicy(attempts=4, backoff=0.25))
def lookup(key: str) -> str:
    return key


lines = server_tool("lines", result=list[str], idempotent=True, timeout=TimeoutPolicy(3.0))


def test_rag() -> None:
    def answer(question: str, k: int = 3) -> str:
        queries = gen(f"Queries.\nQuestion: {question}\n", type=list[str], max_tokens=96)
        passages = search("handbook", queries, k=8)
        best = rerank(question, passages, k=k)
        return gen(f"Question: {question}\n\n{best}\n\nAnswer:", stop="\n", name="answer")

    assert text_of(answer).splitlines() == [
        '%0 = input("question") -> text',
        '%1 = input("k", default=3) -> integer',
        '%2 = generate(user("Queries.\\nQuestion: ", question=%0, "\\n"), max_tokens=96, '
        'json_schema={"items":{"type":"string"},"type":"array"}) -> array, text',
        "%3 = const(8) -> integer",
        '%4 = search("handbook", k=%3, query=%2) -> passages',
        "%5 = rerank(k=%1, passages=%4, query=%0) -> passages",
        '%6 = generate(user("Question: ", question=%0, "\\n\\n", v5=%5, "\\n\\nAnswer:"), stop=["\\n"]) '
        "-> text, text 'answer'",
        "return %6",
    ]


def test_searches_with_a_condition() -> None:
    def narrowed(question: str, team: str, years: list[int]) -> Any:
        constant = search("handbook", question, where={"open": True})
        return constant, search("handbook", question, where={"team": team, "year": years})

    text = text_of(narrowed)
    assert '= const({"open":true})' in text.replace(": ", ":")
    assert '= gather("object", team=%1, year=%2)' in text
    assert text.count("where=%") == 2


def test_source_lines_are_those_of_the_user() -> None:
    def located(question: str) -> str:
        return gen(question)

    node = program(located).graph().nodes[-1]
    line = located.__code__.co_firstlineno
    assert node.location.endswith(f"test_tracing.py:{line + 1}")


def test_messages() -> None:
    def chat(q: str) -> str:
        return gen(f"{q}?", system="Be brief.", model="small")

    op = last(chat)
    assert [message.role for message in op.messages] == ["system", "user"]
    assert op.model == "small"

    def raw(q: str) -> str:
        return gen(q + "!" + q, raw=True)

    assert 'generate(raw(q=%0, "!", q=%0))' in text_of(raw)


def test_context() -> None:
    def chat(q: str) -> list[str]:
        base = Context(system="Act.").user("Example?").assistant("Yes.").user(q)
        one, two = base.fork(2)
        first = one.text("Well, ").gen()
        second = two.gen(type=Step)
        return [first, one.user("And?").gen(), two.user(f"Saw {second.input}").select(["a", "b"])]

    graph = program(chat).graph()
    said = [
        [(message.role, len(message.parts)) for message in node.op.messages]
        for node in graph
        if hasattr(node.op, "messages")
    ]
    start = [("system", 1), ("user", 1), ("assistant", 1), ("user", 1)]
    assert said == [
        [*start, ("assistant", 1)],
        start,
        [*start, ("assistant", 2), ("user", 1)],
        [*start, ("assistant", 1), ("user", 2)],
    ]


def test_plain_text_context() -> None:
    def complete(q: str) -> str:
        context = Context().text(f"Q: {q}\nA: ")
        context.gen(stop="\n")
        return context.text("\nQ: again\nA: ").gen(stop="\n")

    op = last(complete)
    assert [message.role for message in op.messages] == ["raw"]
    assert len(op.messages[0].parts) == 5


def test_a_context_of_messages() -> None:
    said: list[Message] = [{"role": "user", "content": "Example?"}, {"role": "assistant", "content": "Yes."}]

    def loaded(q: str) -> str:
        return Context(system="Act.", messages=[*said, {"role": "user", "content": q}]).gen()

    def told(q: str) -> str:
        return Context(system="Act.").user("Example?").assistant("Yes.").user(q).gen()

    assert last(loaded) == last(told)


def test_a_context_as_a_prompt() -> None:
    def twice(q: str) -> list[str]:
        context = Context().user(q)
        return [gen(context, name="a"), gen(context, name="b")]

    ops = [node.op for node in program(twice).graph() if isinstance(node.op, Generate)]
    assert ops[0] == ops[1]


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Literal[1, 2], {"enum": [1, 2], "type": "integer"}),
    ],
)
def test_types_are_constraints(annotation: Any, schema: dict[str, Any]) -> None:
    def typed() -> Any:
        return gen("x", type=annotation)

    op = last(typed)
    assert isinstance(op.constraint, JsonSchema)
    assert op.type == Data(op.constraint.schema)
    assert json.loads(op.constraint.schema) == schema


@pytest.mark.parametrize("annotation", [Step, Plan, Typed])
def test_structures_are_constraints(annotation: Any) -> None:
    def typed() -> Any:
        return gen("x", type=annotation)

    assert isinstance(last(typed).constraint, JsonSchema)


def test_a_model_writes_fields_in_the_order_of_their_declaration() -> None:
    def typed() -> Any:
        return gen("x", type=Step)

    step = json.loads(last(typed).constraint.schema)["$defs"]["Step"]
    assert list(step["properties"]) == ["tool", "input", "rest"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"type": Literal["a", "b"]}, Choices(("a", "b"))),
        ({"type": Color}, Choices(("red", "blue"))),
        ({"choices": ["a", "b"]}, Choices(("a", "b"))),
        ({"regex": "[ab]+"}, Regex("[ab]+")),
        ({}, None),
    ],
)
def test_text_constraints(options: dict[str, Any], expected: object) -> None:
    def text() -> Any:
        return gen("x", **options)

    op = last(text)
    assert (op.type, op.constraint) == (TEXT, expected)


def test_sampling() -> None:
    def sampled() -> list[str]:
        return gen("x", n=3, temperature=0.7, top_p=0.9, top_k=5, seed=4, max_tokens=9, stop=["a", "b"])

    assert last(sampled).n == 3
    assert "max_tokens=9, temperature=0.7, top_p=0.9, top_k=5, seed=4" in text_of(sampled)


def test_a_text_of_forced_length() -> None:
    def forced() -> str:
        return gen("x", max_tokens=9, ignore_eos=True)

    assert last(forced).sampling == Sampling(max_tokens=9, ignore_eos=True)


def test_fields_and_items() -> None:
    def pick(plan: Plan, table: dict[str, list[int]], alias: Aliased) -> list[Any]:
        value: Any = plan  # which, as it is traced, has items, too
        return [plan.steps[0].rest[-1].input, value["title"], table["a"][0], alias.kind]

    keys = [node.op.key for node in program(pick).graph() if isinstance(node.op, Project)]
    assert keys == ["steps", 0, "rest", -1, "input", "title", "a", 0, "type"]


def test_fields_are_called_as_the_value_calls_them() -> None:
    def pick(given: Renamed) -> list[str]:
        made = gen("x", type=Renamed)
        return [value for of in (given, made) for value in (of.read, of.either, of.written)]

    keys = [node.op.key for node in program(pick).graph() if isinstance(node.op, Project)]
    assert keys == ["read", "either", "writtenAs", "readAs", "eitherAs", "written"]


def test_fields_that_may_be_left_out_have_their_defaults() -> None:
    def pick() -> list[Any]:
        made, state = gen("x", type=Loose), gen("x", type=State)
        return [made.note, made.tags, made.needed, made.wrong, state.turn, state.notes, state.text]

    defaults = [node.op.default for node in program(pick).graph() if isinstance(node.op, Project)]
    assert defaults == ["null", '["new"]', None, None, "0", "[]", None]


def test_python_types_follow_fields_and_items() -> None:
    kinds: list[Any] = []

    def pick(plan: Plan, pairs: tuple[int, str]) -> str:
        for value in (plan.steps, plan.steps[0], plan.title, pairs[1]):
            assert isinstance(value, Var)
            kinds.append(value._pytype.annotation)
        return ""

    program(pick).graph()
    assert kinds == [list[Step], Step, str | None, str]


def test_fields_are_read_as_their_model_reads_them() -> None:
    read: list[Any] = []

    def pick() -> str:
        code = gen("x", type=Annotated[Coded, WithJsonSchema({"type": "object"})]).code
        assert isinstance(code, Var)
        read.append(code._pytype.load("A7"))
        return ""

    program(pick).graph()
    assert read[0].text == "A7"


def test_tools() -> None:
    def use(x: str) -> Any:
        return [calculator(f"{x} + 1"), calculator("2", digits=3), lookup(x), lines(text=x, most=3)]

    graph = program(use).graph()
    tools = [node for node in graph if node.op.label() == "tool"]
    assert [(node.op.tool, node.op.where, sorted(node.args)) for node in tools] == [
        ("calculator", "client", ["expression"]),
        ("calculator", "client", ["digits", "expression"]),
        ("lookup", "client", ["key"]),
        ("lines", "server", ["most", "text"]),
    ]
    assert (tools[2].policy.timeout_s, tools[2].policy.attempts, tools[2].policy.backoff_s) == (2, 4, 0.25)
    assert (tools[2].op.pure, tools[2].op.idempotent, tools[0].op.pure) == (True, True, False)
    assert (tools[3].policy.timeout_s, tools[3].op.idempotent) == (3.0, True)


def test_programs_inline() -> None:
    @program
    def inner(text: str, tone: str = "calm", times: Static[int] = 1) -> str:
        for _ in range(times):
            text = gen(f"{text} in {tone}")
        return text

    def outer(x: str) -> Any:
        return inner(x), inner("constant", tone="loud", times=2)

    generated = [node for node in program(outer).graph() if isinstance(node.op, Generate)]
    assert [node.op.messages[0].parts[-1] for node in generated] == [
        " in calm",
        "constant in loud",
        " in loud",
    ]


def test_static_parameters_give_graphs_of_their_own() -> None:
    calls: list[int] = []

    @program
    def chain(text: str, times: Static[int] = 2) -> str:
        calls.append(times)
        for _ in range(times):
            text = gen(text)
        return text

    sizes = [len(chain.graph().nodes), len(chain.graph(times=3).nodes), len(chain.graph(times=2).nodes)]
    assert sizes == [3, 4, 3]
    assert calls == [2, 3]


def test_graphs_are_kept_for_the_static_arguments_used_last() -> None:
    calls: list[int] = []

    @program
    def echo(text: str, number: Static[int]) -> str:
        calls.append(number)
        return gen(f"{number} {text}")

    for number in range(300):
        echo.graph(number=number)
        echo.graph(number=0)
    assert calls == list(range(300))
    echo.graph(number=299)
    echo.graph(number=1)
    assert calls[300:] == [1]


def test_parameters_of_every_kind() -> None:
    def typed(
        text: str,
        any_json: Any,
        plan: Plan,
        maybe: str | None = None,
        *,
        number: float = 1.5,
        color: Color = Color.RED,
    ) -> Any:
        return text

    for untyped in ("any_json", "return"):
        del typed.__annotations__[untyped]
    many = program(typed)
    inputs = [node.op for node in many.graph() if isinstance(node.op, Input)]
    assert [op.default for op in inputs] == [None, None, None, "null", "1.5", '"red"']
    assert [op.type == TEXT for op in inputs] == [True, False, False, False, False, True]
    assert many.parameters["number"] == '{"type":"number"}'


def test_equal_constants_are_one_node() -> None:
    def twice(q: str) -> Any:
        return search("a", q, k=8), search("a", q, k=8)

    assert text_of(twice).count("const(") == 1


def test_embeddings() -> None:
    def vectors(texts: list[str]) -> list[list[float]]:
        return embed(texts, model="m")

    assert text_of(vectors).splitlines()[1] == '%1 = embed(texts=%0, model="m") -> vectors'


def test_returning_nothing() -> None:
    def nothing() -> None:
        gen("dropped by the server")

    graph: Graph = program(nothing).graph()
    assert len(graph.outputs) == 1


def test_strings_with_values_can_be_handled_with_care() -> None:
    def careful(a: str, b: str) -> str:
        joined = ", ".join([str(a), str(b)])
        old, less_old = "Q: %s", "\n{}"
        return gen((old % joined).strip() + less_old.format(a))

    assert 'generate(user("Q: ", a=%0, ", ", b=%1, "\\n", a=%0))' in text_of(careful)


def test_constant_arguments_become_text_of_prompts() -> None:
    @program
    def inner(instruction: str, items: list[str]) -> str:
        return gen(f"{instruction}: {items}")

    def outer() -> str:
        return inner("Sort", ["b", "a"])

    assert 'generate(user("Sort: b\\na"))' in text_of(outer)
