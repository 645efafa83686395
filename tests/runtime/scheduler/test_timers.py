"""What comes due, and what is left out because nobody waits for it any more."""

from __future__ import annotations

import gc

from weft.graph.ir import Policy
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.state import LiveNode
from weft.runtime.scheduler.timers import Timers

from .conftest import DECODE, LLM, PREFILL, Driver, fault_of, node

_MANY = 2000


def _live_nodes() -> int:
    gc.collect()
    return sum(type(found) is LiveNode for found in gc.get_objects())


def test_what_does_not_matter_any_more_does_not_pile_up_and_the_rest_comes_due_in_order() -> None:
    waiting: set[int] = set()
    timers: Timers[int] = Timers(waiting.__contains__)
    for number in range(_MANY):
        waiting.add(number)
        timers.set(1000.0 - number, number)
        waiting.discard(number - 10)
        assert len(timers) <= 2 * 11 + 65
    found = [number for number in timers.due(1000.0) if number in waiting]
    assert found == sorted(waiting, reverse=True)


def test_after_a_wake_up_for_what_was_left_out_the_next_is_announced() -> None:
    waiting = {0}
    timers: Timers[int] = Timers(waiting.__contains__)
    timers.set(1.0, 0)
    assert timers.announcement() == 1.0
    waiting.clear()
    for number in range(1, _MANY):
        timers.set(1.5, number)
    waiting.add(_MANY)
    timers.set(2.0, _MANY)
    assert timers.announcement() is None
    assert 0 not in timers.due(1.5)
    assert timers.announcement() == 2.0


def test_timeouts_of_what_is_done_are_not_kept_until_they_would_come_due() -> None:
    before = _live_nodes()
    driver = Driver(("w", LLM))
    patient = Policy(timeout_s=3600.0)
    for number in range(_MANY):
        run = f"r{number}"
        driver.run(node(0, PREFILL), node(1, DECODE, patient, kv=0), run=run)
        driver.done(0, run=run)
        driver.done(1, run=run)
        driver.send(ev.RunEnded(run))
    driver.run(node(0, PREFILL, Policy(timeout_s=5.0)))
    assert _live_nodes() - before < 100
    assert fault_of(driver.tick(driver.now + 5.0)).code == "timeout"
