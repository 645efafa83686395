"""Which tasks have KV fetched, from where, and what the scheduler learns of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.graph.analyses.forecast import Forecast
from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.ops.primitive import Prefill
from weft.graph.prompt import Fixed
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.directory import Found
from weft.runtime.scheduler.engines import EngineState, WorkerState
from weft.runtime.scheduler.transfer import Cheaper, Move

from .conftest import DECODE, Driver, node
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
    ((run, number, worker, wait_s),) = dispatch.sources
    assert (run, number) == (dispatch.fragments[0].run, 0)
    assert {worker, dispatch.worker} == {"a", "b"}
    assert wait_s == 0.0, "it has been read: who has evicted it says so at once"


def in_turn(*specs: tuple[str, ev.EngineSpec]) -> Driver:
    return Driver(*specs, placement="round_robin")


def test_only_a_source_that_is_reading_is_waited_for() -> None:
    driver = in_turn(("a", FAST), ("b", FAST))
    start(driver, "first")
    ((_, _, worker, wait_s),) = start(driver, "second").sources
    assert worker == "a"
    assert 3.0 < wait_s < 6.0, "ten times what reading 2,000 tokens takes twice"


def test_who_is_getting_it_has_it_no_sooner_than_it_comes() -> None:
    """All take it from the one that reads it, not each from the one before."""
    driver = in_turn(*((name, replace(FAST, kv_token_bytes=100)) for name in "abcd"))
    start(driver, "first")
    assert [start(driver, run).sources[0].worker for run in ("second", "third", "fourth")] == ["a"] * 3


def test_who_sends_to_many_is_relieved_by_those_who_get_it() -> None:
    driver = in_turn(*((name, FAST) for name in "abcdefgh"))
    start(driver, "first")
    asked = [start(driver, f"r{number}").sources[0].worker for number in range(7)]
    assert asked[:2] == ["a", "a"]
    assert len(set(asked)) > 1, "sending takes 80 ms each time"


def test_the_beginning_that_a_context_brought_along_is_known_to_be_there() -> None:
    """Who has read on from a context that another made holds all of it, for any other run."""
    driver = in_turn(("a", FAST), ("b", FAST))

    def begin(run: str) -> list[act.Dispatch]:
        """A beginning, which is read first; then what follows on it, elsewhere."""
        nodes = (
            node(0, Prefill("m", (Fixed(FAMILIES[0]),))),
            node(1, Prefill("m", (Fixed(f"tail of {run}" * 50),)), kv=0),
            node(2, DECODE, kv=1),
        )
        forecasts = {n: Forecast(100.0, 300.0, reads=2000.0 * (n < 2)) for n in range(3)}
        driver.run(nodes[0], run=run, forecasts=forecasts)
        driver.done(0, run=run, usage=ev.Usage(0, 2000))
        actions = driver.add(*nodes[1:], run=run, forecasts=forecasts)
        return [action for action in actions if isinstance(action, act.Dispatch)]

    (first,) = begin("first")
    assert (first.worker, [source.worker for source in first.sources]) == ("b", ["a"])
    driver.done(1, run="first")
    driver.done(2, run="first", usage=ev.Usage(2150, 0, 10, fetched=2000, fetch_ms=30.0))
    driver.send(ev.RunEnded("first"))
    (second,) = begin("second")
    assert (second.worker, second.sources) == ("b", ()), "it has it already"


@pytest.mark.parametrize(
    ("spec", "other", "policy"),
    [(SPEC, SPEC, "cheaper"), (FAST, OTHER, "cheaper"), (HUGE, HUGE, "cheaper"), (FAST, FAST, "never")],
    ids=["no layout", "other weights", "too much to send", "switched off"],
)
def test_else_it_computes(spec: ev.EngineSpec, other: ev.EngineSpec, policy: str) -> None:
    driver = Driver(("a", spec), ("b", other), transfer=policy)
    assert overflow(driver).sources == ()


def planner(transfer: Cheaper, spec: ev.EngineSpec = FAST) -> Callable[[float], Move | None]:
    """What is planned for so many tokens that another engine holds."""
    home, engine = (EngineState(spec, WorkerState(name, 1)) for name in "ab")
    return lambda tokens: transfer.plan(Found(tokens, (home,)), (), engine, 0.0)


def fetched(tokens: int, ms: float) -> ev.Usage:
    return ev.Usage(tokens, 4, 50, fetched=tokens, fetch_ms=ms)


def test_what_moves_take_is_learned_and_forgotten() -> None:
    transfer = Cheaper(200e3)
    plan = planner(transfer)
    move = plan(2000.0)
    assert move is not None
    assert (move.tokens, move.fetched, move.patience_ms) == (2000.0, 2000.0, 0.0)
    for _ in range(40):
        transfer.seen(move, fetched(2000, 20.0))
    quick = plan(2000.0)
    assert quick is not None
    assert quick.ms < 25 < move.ms
    for _ in range(60):
        transfer.seen(move, fetched(2000, 2000.0))
    assert plan(2000.0) is None, "computing takes 200 ms"
    assert any(plan(2000.0) for _ in range(1000))


SLOW: Final = replace(
    FAST,
    costs=ModelCosts((PrefillPoint(0, 100, 1e6), PrefillPoint(0, 200, 2e6)), (DecodePoint(1, 100, 5.0),)),
)
"""Whatever is held elsewhere is fetched."""


@given(st.floats(0.2, 50.0), st.floats(20e3, 20e6), st.lists(st.integers(64, 8000), min_size=1, max_size=4))
def test_asking_and_sending_are_learned_from_what_moves_of_any_sizes_take(
    asking_ms: float, bytes_per_ms: float, sizes: list[int]
) -> None:
    transfer = Cheaper(200e3)
    plan = planner(transfer, SLOW)

    def takes(tokens: int) -> float:
        return asking_ms + tokens * FAST.kv_token_bytes / bytes_per_ms

    for _ in range(200):
        for tokens in sizes:
            move = plan(tokens)
            assert move is not None
            transfer.seen(move, fetched(tokens, takes(tokens)))
            after = plan(tokens)
            assert after is not None
            low, high = sorted((move.ms, takes(tokens)))
            assert low * 0.999 <= after.ms <= high * 1.001, "what is expected comes nearer, and never passes"
    for tokens in sizes:
        move = plan(tokens)
        assert move is not None
        assert move.ms == pytest.approx(takes(tokens), rel=0.3)


@given(st.integers(64, 8000), st.lists(st.floats(1.0, 30.0), min_size=1, max_size=5))
def test_moves_that_were_held_up_weigh_less_than_those_that_were_not(tokens: int, late: list[float]) -> None:
    """A profile is of an engine that nothing disturbs; so must be what is compared with it."""
    transfer = Cheaper(200e3)
    plan = planner(transfer, SLOW)
    move = plan(tokens)
    assert move is not None
    for _ in range(100):
        for factor in (*late, *[1.0] * len(late)):
            transfer.seen(move, fetched(tokens, 10.0 * factor))
    learned = plan(tokens)
    assert learned is not None
    assert learned.ms < 10.0 * max(late) ** 0.5 * 1.01


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
