"""Who is served next, of many namespaces: also of more than are remembered."""

from __future__ import annotations

from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.fairness import VirtualTime

from .conftest import EMBED, Driver, node, placed

_REMEMBERED = 1024  # tenants, if none of them waits
_MANY = 5000


def _use(fairness: VirtualTime, name: str, ms: float) -> float:
    """Serve a namespace that waits for nothing else; the virtual time at which it was served."""
    tenant = fairness.tenant(name)
    fairness.wants(tenant)
    began = tenant.virtual_ms
    fairness.serve(tenant, ms)
    fairness.rests(tenant)
    return began


def test_namespaces_that_come_once_are_forgotten() -> None:
    fairness = VirtualTime({})
    for number in range(_MANY):
        _use(fairness, f"once {number}", 10.0)
        assert len(fairness) <= _REMEMBERED


def test_who_has_had_more_than_most_is_not_forgotten_for_those_who_come_once() -> None:
    fairness = VirtualTime({})
    _use(fairness, "much", 1e6)
    for number in range(_MANY):
        _use(fairness, f"once {number}", 10.0)
    assert _use(fairness, "much", 1.0) == 1e6


def test_nobody_who_waits_is_forgotten() -> None:
    fairness = VirtualTime({})
    waiting = []
    for number in range(_MANY):
        waiting.append(fairness.tenant(f"waits {number}"))
        fairness.wants(waiting[-1])
    assert [fairness.tenant(tenant.name) for tenant in waiting] == waiting
    for tenant in waiting:
        fairness.rests(tenant)
    for number in range(2 * _MANY):
        _use(fairness, f"once {number}", 10.0)
    assert len(fairness) <= _REMEMBERED


def test_who_waits_in_two_queues_starts_from_the_present_once_and_is_remembered_for_both() -> None:
    fairness = VirtualTime({})
    late = fairness.tenant("late")
    fairness.wants(late)
    for number in range(2):
        _use(fairness, f"other {number}", 10.0)
        fairness.serve(fairness.tenant(f"other {number}"), 1.0)
    fairness.wants(late)
    assert late.virtual_ms == 0.0
    fairness.rests(late)
    for number in range(2 * _MANY):
        _use(fairness, f"once {number}", 10.0)
    assert fairness.tenant("late") is late


def test_more_namespaces_than_are_remembered_may_wait_at_once_and_each_is_served() -> None:
    driver = Driver(("e", ev.EngineSpec("embed", "hash", capacity=1)))
    driver.run(node(0, EMBED), run="first")
    runs = [f"r{number}" for number in range(2 * _REMEMBERED)]
    for run in runs:
        assert driver.run(node(0, EMBED), run=run, namespace=run) == []
    served, current = [], "first"
    for _ in runs:
        ((_, current, _),) = placed(driver.done(0, run=current))
        served.append(current)
    assert served == runs
