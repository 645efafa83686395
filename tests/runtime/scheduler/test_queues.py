"""A queue and its gate: what leaves one for the other is in one of them."""

from __future__ import annotations

from weft.graph.analyses.forecast import Forecast
from weft.runtime.scheduler.batching import Fifo
from weft.runtime.scheduler.fairness import VirtualTime
from weft.runtime.scheduler.primitive import describe
from weft.runtime.scheduler.priority import Arrival
from weft.runtime.scheduler.queues import ReadyQueue
from weft.runtime.scheduler.state import LiveRun

from .conftest import EMBED, node


def test_who_goes_through_the_gate_waits_there_no_longer_and_pays_once() -> None:
    fairness = VirtualTime({})
    queue = ReadyQueue(Fifo, Arrival(), fairness, bound_s=30.0)
    gate = queue.gate()
    work = {number: Forecast(10.0, 10.0) for number in range(2)}
    first, second = LiveRun("r", 0.0).add(describe((node(0, EMBED), node(1, EMBED)), work))
    gate.push(first, 0.0)
    gate.push(second, 0.0)
    assert gate.peek(0.0) is first
    gate.withdraw(first)
    assert fairness.tenant("").virtual_ms == 0.0
    queue.push(first, 0.0)
    assert gate.waiting() == [second]
    assert gate.peek(0.0) is second
    assert queue.batch(first, 1, 0.0) == [first]
    assert fairness.tenant("").virtual_ms == 10.0
