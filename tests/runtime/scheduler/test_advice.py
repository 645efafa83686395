"""What workers are told of the contexts that they hold, and when."""

from __future__ import annotations

import pytest

from weft.graph.ir import Value
from weft.graph.ops.common import Tool
from weft.graph.ops.primitive import Prefill
from weft.graph.prompt import Fixed, Slot
from weft.graph.types import TEXT
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev

from .conftest import DECODE, EMBED, EMBEDDER, LLM, PREFILL, Driver, node, sent

CALL = Tool("t", TEXT, "client")


def said(actions: list[act.Action]) -> list[act.Keep]:
    return [keep for action in actions if isinstance(action, act.Dispatch) for keep in action.keep]


def start(driver: Driver, run: str) -> list[act.Action]:
    """Another run, whose dispatch takes along what there is to say."""
    return driver.run(node(0, PREFILL), node(1, DECODE, kv=0), run=run)


def agent(driver: Driver) -> None:
    """A turn of an agent, whose tool has begun."""
    driver.run(node(0, PREFILL), node(1, DECODE, kv=0), node(2, CALL, x=(1, 1)), grows=True)
    driver.done(0)
    assert driver.done(1) == [act.AskClient("r", 2, 1)], "nothing is sent for the advice alone"


def test_a_context_that_waits_for_a_tool_is_kept_while_the_tool_usually_takes() -> None:
    driver = Driver(("w", LLM), advice="liveness")
    for number in range(8):
        driver.run(node(0, CALL), run=f"t{number}")
        driver.now += 2.0
        driver.done(0, run=f"t{number}")
        driver.send(ev.RunEnded(f"t{number}"))
    agent(driver)
    (keep,) = said(start(driver, "s"))
    assert (keep.run, keep.node, keep.begins) == ("r", 1, 0.0)
    assert 1.8 <= keep.expires - driver.now <= 2.2
    assert said(start(driver, "u")) == [], "it is said once"


def test_a_context_that_waits_for_a_tool_is_not_expected_before_nine_of_ten_calls_would_go_on() -> None:
    driver = Driver(("w", LLM))
    for number in range(21):
        driver.run(node(0, CALL), run=f"t{number}")
        driver.now += 10.0 + number
        driver.done(0, run=f"t{number}")
        driver.send(ev.RunEnded(f"t{number}"))
    agent(driver)
    (keep,) = said(start(driver, "s"))
    assert 11.0 <= keep.begins - driver.now <= 13.0
    assert 26.0 <= keep.expires - driver.now <= 30.0


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("other", [2.0]), ("t", [0.5]), ("t", [2.0, 14.0])],
    ids=["unknown", "quick", "varying"],
)
def test_of_some_tools_nothing_is_said_of_when_they_end(name: str, seconds: list[float]) -> None:
    driver = Driver(("w", LLM))
    for number in range(20):
        driver.run(node(0, Tool(name, TEXT, "client")), run=f"t{number}")
        driver.now += seconds[number % len(seconds)]
        driver.done(0, run=f"t{number}")
        driver.send(ev.RunEnded(f"t{number}"))
    agent(driver)
    (keep,) = said(start(driver, "s"))
    assert keep.begins == 0.0


def test_a_context_is_kept_for_what_the_graph_says_will_take_it() -> None:
    driver = Driver(("w", LLM), ("e", EMBEDDER))
    driver.run(node(0, PREFILL), node(1, EMBED), node(2, PREFILL, kv=0, x=1), node(3, DECODE, kv=2))
    driver.done(0)
    assert said(start(driver, "s")) == [act.Keep("r", 0, driver.now + 60.0)]


def test_the_latest_context_of_a_growing_run_is_kept_if_its_tool_takes_nothing_that_is_known() -> None:
    driver = Driver(("w", LLM))
    driver.run(node(0, PREFILL), node(1, DECODE, kv=0), grows=True)
    driver.done(0)
    driver.done(1)
    driver.add(node(2, CALL))
    assert said(start(driver, "s")) == [act.Keep("r", 1, driver.now + 5.0)]


def test_what_is_over_is_not_said() -> None:
    driver = Driver(("w", LLM))
    agent(driver)
    driver.add(node(3, PREFILL, kv=1, x=2))
    assert said(driver.done(2)) == [], "the context is taken up again"
    driver.done(3)
    agent_of = Driver(("w", LLM))
    agent(agent_of)
    agent_of.now += 6.0
    assert said(start(agent_of, "s")) == [], "the tool takes longer than anybody thought"
    ended = Driver(("w", LLM))
    agent(ended)
    ended.send(ev.RunEnded("r"))
    assert said(start(ended, "s")) == []
    lost = Driver(("w", LLM))
    agent(lost)
    lost.send(ev.WorkerJoined("w", (LLM,)))
    assert said(start(lost, "s")) == [], "a worker that joins anew holds nothing"


def test_what_nobody_takes_any_more_is_dead_if_its_text_has_stayed_within_the_run() -> None:
    driver = Driver(("w", LLM), ("e", EMBEDDER))
    driver.run(node(0, PREFILL), node(1, DECODE, kv=0), node(2, EMBED, x=(1, 1)))
    driver.done(0)
    released = act.Release("w", "r", (Value(0), Value(1)), dead=(Value(1),))
    assert driver.done(1) == [released, sent("e", 2)]
    start(driver, "s")
    driver.done(0, run="s")
    assert driver.done(1, run="s") == [act.Release("w", "s", (Value(0), Value(1)))]


def test_what_a_prompt_that_waits_begins_like_is_not_dead() -> None:
    def draft_and_answer(driver: Driver, other: str, *, known: bool = False) -> tuple[Value, ...]:
        """The prompt of the answer begins as that of the draft does, or with other text, or is `known`."""
        prompt, repeated = (Prefill("m", (Fixed(text), Slot("x"))) for text in ("Read: ", other))
        driver.run(
            node(0, EMBED),
            node(1, prompt, x=0),
            node(2, DECODE, kv=1),
            node(3, EMBED, x=(2, 1)),
            node(4, Prefill("m", (*repeated.pieces, Slot("y"))), x=0, y=3),
            node(5, DECODE, kv=4),
        )
        for number in (0, 1):
            driver.done(number)
        if known:
            driver.send(ev.ValuesKnown("r", {Value(4): None}))
        (dead,) = (action.dead for action in driver.done(2) if isinstance(action, act.Release))
        return dead

    workers = ("w", LLM), ("e", EMBEDDER)
    assert draft_and_answer(Driver(*workers), "Read: ") == ()
    assert draft_and_answer(Driver(*workers), "Think: ") == (Value(2),)
    assert draft_and_answer(Driver(*workers), "Read: ", known=True) == (Value(2),)


def test_without_the_policy_nothing_is_said() -> None:
    driver = Driver(("w", LLM), ("e", EMBEDDER), advice="none")
    agent(driver)
    assert said(start(driver, "s")) == []
    driver.run(node(0, PREFILL), node(1, DECODE, kv=0), node(2, EMBED, x=(1, 1)), run="u")
    driver.done(0, run="u")
    assert driver.done(1, run="u")[0] == act.Release("w", "u", (Value(0), Value(1)))
