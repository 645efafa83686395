"""Which tasks have KV fetched, from where, and what the scheduler learns of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.directory import Found
from weft.runtime.scheduler.engines import EngineState, WorkerState
from weft.runtime.scheduler.transfer import Cheaper, Move

from .conftest import Driver
from .test_placement import FAMILIES, SPEC, call

FAST = replace(SPEC, kv_layout="float32", kv_token_bytes=8192)
OTHER = replace(FAST, kv_layout="bfloat16")
HUGE = replace(FAST, kv_token_bytes=8192 * 1000)


def start(driver: Driver, run: str, writes: float = 50.0, family: str = FAMILIES[0]) -> act.Dispatch:
    """Start a run of a family; what is handed out for it."""
    nodes, forecasts = call(family, f"tail of {run}", writes)
    (dispatch,) = (a for a in driver.run(*nodes, run=run, forecasts=forecasts) if isinstance(a, act.Dispatch))
    return dispatch


def finish(driver: Driver, run: str, usage: ev.Usage) -> None:
    driver.done(0, run=run)
    driver.done(1, run=run, usage=usage)
    driver.send(ev.RunEnded(run))


def overflow(driver: Driver) -> act.Dispatch:
    """The first run that does not go where its family has been read, as too many have gone there."""
    home = start(driver, "first").worker
    finish(driver, "first", ev.Usage(0, 2004, 50))
    for number in range(200):
        driver.now += 0.001
        dispatch = start(driver, f"r{number}", writes=300.0)
        driver.done(0, run=f"r{number}")
        driver.send(ev.PromptRead(f"r{number}", 1, 1))
        if dispatch.worker != home:
            return dispatch
    raise AssertionError("the home of a family takes everything")


def test_whoever_takes_work_from_a_holder_gets_its_kv() -> None:
    driver = Driver(("a", FAST), ("b", FAST))
    dispatch = overflow(driver)
    ((run, node, worker, wait_s),) = dispatch.sources
    assert (run, node) == (dispatch.fragments[0].run, 0)
    assert {worker, dispatch.worker} == {"a", "b"}
    assert 1.0 < wait_s < 5.0, "ten times what computing 2,000 tokens takes"


@pytest.mark.parametrize(
    ("spec", "other", "policy"),
    [(SPEC, SPEC, "cheaper"), (FAST, OTHER, "cheaper"), (HUGE, HUGE, "cheaper"), (FAST, FAST, "never")],
    ids=["no layout", "other weights", "too much to send", "switched off"],
)
def test_else_it_computes(spec: ev.EngineSpec, other: ev.EngineSpec, policy: str) -> None:
    driver = Driver(("a", spec), ("b", other), transfer=policy)
    assert overflow(driver).sources == ()


def test_the_speed_is_learned_and_forgotten() -> None:
    home, engine = (EngineState(FAST, WorkerState(name, 1)) for name in "ab")
    transfer, found = Cheaper(200e3), Found(2000.0, (home,))

    def plan() -> Move | None:
        return transfer.plan(found, (), engine, 0.0)

    move = plan()
    assert move is not None
    assert (move.source, move.tokens, move.fetched) == (home, 2000.0, 2000.0)
    for _ in range(40):
        transfer.seen(move, ev.Usage(2000, 4, 50, fetched=2000, fetch_ms=20.0))
    quick = plan()
    assert quick is not None
    assert quick.ms < 25 < move.ms
    for _ in range(40):
        transfer.seen(move, ev.Usage(2000, 4, 50, fetched=2000, fetch_ms=2000.0))
    assert plan() is None, "computing takes 200 ms"
    assert any(plan() for _ in range(1000))


@pytest.mark.parametrize(("expected", "moves"), [(1e3, False), (200e3, True)])
def test_what_is_expected_of_the_link_decides_until_it_has_been_seen(expected: float, moves: bool) -> None:
    home, engine = (EngineState(FAST, WorkerState(name, 1)) for name in "ab")
    move = Cheaper(expected).plan(Found(2000.0, (home,)), (), engine, 0.0)
    assert (move is not None) == moves


def test_a_source_that_has_nothing_is_forgotten() -> None:
    driver = Driver(("a", FAST), ("b", FAST), ("c", FAST))
    dispatch = overflow(driver)
    (source,) = dispatch.sources
    driver.done(1, run=source.run, usage=ev.Usage(0, 2004, 50))
    driver.send(ev.WorkerLost(dispatch.worker, "lost"))
    late = [start(driver, f"late{number}", writes=300.0) for number in range(40)]
    assert source.worker not in {advised.worker for dispatch in late for advised in dispatch.sources}


def test_an_attempt_elsewhere_is_advised_anew() -> None:
    driver = Driver(("a", FAST), ("b", FAST))
    dispatch = overflow(driver)
    (source,) = dispatch.sources
    again = driver.send(ev.WorkerLost(source.worker, "lost"))
    assert all(action.sources == () for action in again if isinstance(action, act.Dispatch))
