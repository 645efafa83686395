"""Every framework gives the same results for any plan, and begins no step before what it needs is there."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Sequence
from threading import Barrier
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plans.language import (
    ITEM,
    Ask,
    Branch,
    Compute,
    Each,
    Plan,
    PlanError,
    Search,
    Step,
    Tool,
    Values,
    filled,
)
from systems import BASELINES, runner
from systems.calls import Run
from transformers import AutoTokenizer

from weft import Passage
from weft.runtime.config import REFERENCE_MODEL

INSTALLED = [name for name, system in BASELINES.items() if system.version]


class Echo:
    """A model that says what it was asked, sooner or later, and an index that finds the query."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.running = self.most = 0

    async def ask(self, ask: Ask, values: Values) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        said = filled(ask.messages[-1][1], values)  # raises KeyError if something is not there yet
        self.asked.append(said)
        for _ in range(len(said) % 3 + 1):
            await asyncio.sleep(0)
        self.running -= 1
        return [f"{said}.{number}" for number in range(len(said) % 3)] if ask.form is not str else f"<{said}>"

    async def search(self, query: str | Sequence[str], k: int) -> list[Passage]:
        queries = [query] if isinstance(query, str) else list(query)
        return [Passage(f"{number}", found) for number, found in enumerate(queries)]


def arm(name: str, plan: Plan, echo: Echo, meet: Callable[[], object] = int) -> Run:
    """The plan in a system; SGLang's frontend has a way of its own to the model.

    `meet` is called by each of its threads while it asks.
    """
    if name != "sglang":
        return runner(name, plan, echo)
    from systems import sglang_programs

    def generate(s: Any, sampling_params: Any) -> tuple[str, dict[str, Any]]:
        meet()
        form = list[str] if sampling_params.json_schema else str
        text = asyncio.run(echo.ask(ask("", "{said}", form), {"said": s.messages_[-1]["content"]}))
        return (text if form is str else json.dumps(text)), {}

    backend = sglang_programs.SGLANG.base_backend.BaseBackend()
    backend.chat_template = sglang_programs.SGLANG.chat_template.get_chat_template("weft-reference")
    backend.generate = generate
    return sglang_programs.Program(plan, echo, backend).ainvoke


async def backwards(text: str) -> str:
    """A tool."""
    await asyncio.sleep(0)
    return text[::-1]


def ask(name: str, text: str, form: Any = str) -> Ask:
    return Ask(name, (("user", text),), 8, form=form)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Random plans over the input `q`, in which everything is used."""
    steps: list[Step] = []
    texts: list[str] = ["q"]
    lists: list[str] = []
    passages: list[str] = []
    for number in range(draw(st.integers(1, 6))):
        name = f"s{number}"
        taken = draw(st.lists(st.sampled_from(texts), min_size=1, max_size=3, unique=True))
        prompt = f"{number} " + " ".join(f"{{{one}}}" for one in taken + passages)
        kinds = ["ask", "list", "tool", "search", "branch", *(["each", "nested", "compute"] if lists else [])]
        match draw(st.sampled_from(kinds)):
            case "ask":
                steps.append(ask(name, prompt))
            case "list":
                steps.append(ask(name, prompt, list[str]))
                lists.append(name)
                continue
            case "tool":
                steps.append(Tool(name, backwards, (taken[0],)))
            case "search":
                steps.append(Search(name, draw(st.sampled_from([*texts, *lists])), 1))
                passages.append(name)
                continue
            case "branch":
                otherwise = Plan((taken[0],), (ask("in", f"{{{taken[0]}}}"), ask("out", "{in}")), "out")
                same = draw(st.booleans())
                steps.append(Branch(name, "q", "question" if same else "no", taken[-1], otherwise))
            case "each":
                body = Plan((ITEM, taken[0]), (ask("in", f"{{item}} {{{taken[0]}}}"),), "in")
                steps.append(Each(name, draw(st.sampled_from(lists)), body))
            case "nested":
                body = Plan((ITEM,), (ask("in", "{item}"), Tool("out", backwards, ("in",))), "out")
                steps.append(Each(name, draw(st.sampled_from(lists)), body))
            case _:
                steps.append(Compute(name, lambda items: f"{len(items)}", (draw(st.sampled_from(lists)),)))
        texts.append(name)
    return Plan(("q",), tuple(steps), tuple(step.name for step in steps))


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=plans())
@pytest.mark.parametrize("name", [name for name in INSTALLED if name != "sequential"])
def test_every_framework_gives_what_plain_python_gives(name: str, plan: Plan) -> None:
    one, other = Echo(), Echo()
    expected = asyncio.run(runner("sequential", plan, one)({"q": "question"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what frameworks say of each other's packages is theirs
        given_ = asyncio.run(arm(name, plan, other)({"q": "question"}))
    assert given_ == expected
    assert sorted(other.asked) == sorted(one.asked)


@pytest.mark.parametrize("name", [name for name in INSTALLED if name != "sglang"])
def test_independent_calls_run_together_unless_it_is_sequential(name: str) -> None:
    echo = Echo()
    plan = Plan(("q",), (ask("a", "1 {q}"), ask("b", "2 {q}"), ask("c", "{a} {b}")), "c")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert asyncio.run(runner(name, plan, echo)({"q": "x"})) == "<<1 x> <2 x>>"
    assert echo.most == (1 if name == "sequential" else 2)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_list_may_follow_on_another(name: str) -> None:
    inner = Plan((ITEM,), (ask("in", "{item}"),), "in")
    outer = Plan((ITEM, "e"), (ask("in", "{item} {e}"),), "in")
    plan = Plan(("q",), (ask("l", "ab {q}", list[str]), Each("e", "l", inner), Each("f", "l", outer)), "f")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = asyncio.run(arm(name, plan, Echo())({"q": "xy"}))
    assert found == ["<ab xy.0 <ab xy.0>\n<ab xy.1>>", "<ab xy.1 <ab xy.0>\n<ab xy.1>>"]


@pytest.mark.parametrize(
    ("steps", "result", "said"),
    [
        ((ask("a", "{b}"),), "a", "step 'a' refers to 'b', which nothing before it gives"),
        ((ask("q", "x"),), "q", "there are two values called 'q'; give each a name of its own"),
        ((ask("a", "{q}"), ask("b", "{q}")), "b", "nothing uses 'a'"),
        ((ask("a", "{q}"),), ("a", "c"), "the plan gives no 'c'"),
    ],
)
def test_a_plan_that_leads_nowhere_is_refused(steps: tuple[Step, ...], result: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Plan(("q",), steps, result)


def test_a_step_waits_only_for_what_no_other_step_waits_for() -> None:
    steps = (ask("a", "{q}"), ask("b", "{a}"), ask("c", "{a} {b} {q}"))
    assert Plan(("q",), steps, "c").before(steps[2]) == ("b",)


def test_values_stand_in_prompts_as_weft_puts_them() -> None:
    passages = [Passage("a", "one"), Passage("b", "two")]
    assert (
        filled("{p}|{p[1].text}|{l}|{n}", {"p": passages, "l": ["x", "y"], "n": 3})
        == "[1] one\n[2] two|two|x\ny|3"
    )


def test_texts_of_forced_length_end_nowhere_else() -> None:
    free = Ask("a", (("user", "x"),), 8, stop="\n")
    assert free.ends(forced=False) == {"stop": "\n"}
    assert free.ends(forced=True) == {"ignore_eos": True}
    assert ask("a", "x", list[str]).ends(forced=True) == {}


def test_a_search_is_found_in_bodies_and_branches() -> None:
    inner = Plan((ITEM,), (Search("found", ITEM, 1),), "found")
    assert Plan(("q",), (ask("l", "{q}", list[str]), Each("e", "l", inner)), "e").searches()
    other = Plan(("q",), (Search("found", "q", 1),), "found")
    assert Plan(("q",), (Branch("b", "q", "no", "q", other),), "b").searches()
    assert not Plan(("q",), (ask("a", "{q}"),), "a").searches()


sglang = pytest.mark.skipif(  # no extra can bring it, as its package asks for a whole server's dependencies
    not BASELINES["sglang"].version,
    reason="make sglang installs it",
)


# Its threads warn of errors, and hang if warnings raise.
@sglang
@pytest.mark.filterwarnings("ignore:Error in stream_executor")
def test_independent_forks_of_sglang_run_together() -> None:
    both = Barrier(2, timeout=10)
    body = Plan((ITEM,), (ask("in", "{item}"),), "in")
    plan = Plan(("q",), (ask("a", "1 {q}"), ask("l", "2 {q}", list[str]), Each("e", "l", body)), ("a", "e"))
    result = asyncio.run(arm("sglang", plan, Echo(), both.wait)({"q": "xyz"}))  # BrokenBarrierError: alone
    assert result == ["<1 xyz>", ["<2 xyz.0>", "<2 xyz.1>"]]


@sglang
def test_sglang_writes_conversations_as_the_reference_model_has_them() -> None:
    from systems.sglang_programs import SGLANG

    template = SGLANG.chat_template.get_chat_template_by_model_path(str(REFERENCE_MODEL))
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE_MODEL)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    for said in (messages, messages[1:]):
        assert template.get_prompt(said) == tokenizer.apply_chat_template(said, tokenize=False)
