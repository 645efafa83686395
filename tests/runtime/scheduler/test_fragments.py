"""What goes to a worker in one message, before all of its operands are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weft.graph.analyses.forecast import Forecast
from weft.graph.ir import Node, Policy, Value
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault

from .conftest import DECODE, EMBED, EMBEDDER, LLM, PREFILL, Driver, node, placed, sent

LONG = Forecast(ms=300.0, reads=5000.0)


def refine() -> tuple[Node, ...]:
    """An answer, and a second prompt that takes it."""
    second = node(2, PREFILL, reply=(1, 1))
    return (node(0, PREFILL), node(1, DECODE, kv=0), second, node(3, DECODE, kv=2))


def test_a_prompt_that_takes_a_reply_goes_along_with_it_to_the_only_engine_of_the_model() -> None:
    driver = Driver(("w", LLM))
    third = (node(4, PREFILL, reply=(3, 1)), node(5, DECODE, kv=4))
    assert driver.run(*refine(), *third) == [sent("w", 0, 1, 2, 3, 4, 5)]
    assert driver.done(0) == []
    assert driver.done(1) == [act.Release("w", "r", (Value(0), Value(1)), dead=(Value(1),))]


def test_where_there_is_a_choice_of_engines_a_prompt_waits_for_its_texts() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    assert driver.run(*refine()) == [sent("w1", 0, 1)]
    driver.done(0)
    assert placed(driver.done(1)) == [("w1", "r", 2), ("w1", "r", 3)]


def test_a_prompt_for_another_model_waits_for_its_texts() -> None:
    driver = Driver()
    driver.send(ev.WorkerJoined("w", (LLM, ev.EngineSpec("llm", "other"))))
    other = type(PREFILL)("other", ())
    assert driver.run(*refine()[:2], node(2, other, reply=(1, 1))) == [sent("w", 0, 1)]


def test_what_else_a_prompt_takes_may_become_known_while_the_reply_is_being_written() -> None:
    driver = Driver(("w", LLM), ("e", EMBEDDER))
    first, reply, _, last = refine()
    later = node(2, PREFILL, reply=(1, 1), vectors=4)
    driver.run(first, reply, node(4, EMBED), later, last)
    assert driver.done(4) == [sent("w", 2, 3)]
    driver.done(0)
    assert placed(driver.done(1)) == []


def test_of_three_replies_that_a_prompt_takes_the_last_brings_it_along() -> None:
    driver = Driver(("w", LLM))
    parts = [node(n, PREFILL) for n in range(3)]
    replies = [node(3 + n, DECODE, kv=n) for n in range(3)]
    combined = node(6, PREFILL, a=(3, 1), b=(4, 1), c=(5, 1))
    driver.run(*parts, *replies, combined)
    assert placed(driver.done(3)) == []
    assert placed(driver.done(4)) == [("w", "r", 6)]


def test_an_engine_that_has_enough_to_read_is_given_no_prompts_before_their_turn() -> None:
    driver = Driver(("w", LLM))
    assert driver.run(*refine(), forecasts={0: LONG}) == [sent("w", 0, 1)]
    assert driver.done(0) == []
    assert placed(driver.done(1)) == [("w", "r", 2), ("w", "r", 3)]


def test_reading_that_cannot_begin_yet_keeps_nobody_waiting() -> None:
    driver = Driver(("w", LLM))
    assert driver.run(*refine(), forecasts={2: LONG}) == [sent("w", 0, 1, 2, 3)]
    assert driver.run(node(0, PREFILL), run="other") == [sent("w", 0, run="other")]
    driver.done(0)
    driver.done(1)
    assert driver.run(node(0, PREFILL), run="late") == [], "now it is being read"


def test_a_reply_that_fails_calls_its_prompt_back_and_is_written_again_with_it() -> None:
    driver = Driver(("w", LLM))
    first, reply, *rest = refine()
    driver.run(first, replace(reply, policy=Policy(attempts=2, backoff_s=1.0)), *rest)
    driver.done(0)
    actions = driver.failed(1, Fault("internal", "busy", retryable=True))
    assert actions[:2] == [act.CancelTasks("w", "r", (2,)), act.CancelTasks("w", "r", (3,))]
    again = act.Fragment("r", ((1, 2), (2, 2), (3, 2)))
    assert driver.tick(101.0) == [act.Dispatch("w", (again,))]


@pytest.mark.parametrize("goes_along", [True, False])
def test_a_tenant_pays_for_prompts_that_went_along(goes_along: bool) -> None:
    driver = Driver(("w", ev.EngineSpec("llm", "m", capacity=3)))
    hundred = Forecast(ms=100.0)
    chain = refine() if goes_along else refine()[:2]
    driver.run(node(0, PREFILL), run="b1", namespace="b", forecasts={0: Forecast(ms=150.0)})
    driver.run(*chain, run="a1", namespace="a", forecasts=dict.fromkeys(range(4), hundred))
    driver.run(node(0, PREFILL), run="c", namespace="c")
    driver.run(node(0, PREFILL), run="a2", namespace="a")
    driver.run(node(0, PREFILL), run="b2", namespace="b")
    assert placed(driver.done(0, run="b1")) == [("w", "b2" if goes_along else "a2", 0)]
