"""Whether engines have time for what may turn out to be of no use."""

from __future__ import annotations

from dataclasses import replace

from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.runtime.scheduler import events as ev

from .conftest import EMBED, EMBEDDER, LLM, PREFILL, Driver, node

MEASURED = ModelCosts((PrefillPoint(0, 16, 2.0),), (DecodePoint(1, 64, 1.0),), efficient_batch=8)
ENGINE = replace(LLM, capacity=4, costs=MEASURED)


def test_a_quarter_of_what_an_engine_does_efficiently_may_be_for_others() -> None:
    driver = Driver(("w1", ENGINE))
    assert driver.scheduler.idle("llm", "mine")
    for other in ("a", "b", "c"):
        assert driver.scheduler.idle("llm", "mine")
        driver.run(node(0, PREFILL), run=other)
    assert not driver.scheduler.idle("llm", "mine")
    assert driver.scheduler.idle("llm", "a"), "one of them is its own"
    driver.send(ev.RunEnded("b"))
    assert driver.scheduler.idle("llm", "mine")


def test_what_waits_goes_before_guesses_even_of_the_same_run() -> None:
    driver = Driver(("w1", replace(ENGINE, capacity=1)))
    driver.run(node(0, PREFILL), node(1, PREFILL), run="mine")
    assert not driver.scheduler.idle("llm", "mine")
    driver.done(0, run="mine")
    driver.done(1, run="mine")
    assert driver.scheduler.idle("llm", "mine")


def test_every_engine_counts_but_those_of_other_kinds() -> None:
    driver = Driver(("w1", ENGINE), ("w2", EMBEDDER))
    for number in range(4):
        driver.run(node(0, EMBED), run=f"other-{number}")
    assert driver.scheduler.idle("llm", "mine")
    assert driver.scheduler.idle("rerank", "mine"), "there is none"
