"""What engines are reckoned to hold, and what a primitive is reckoned to ask of one."""

from __future__ import annotations

from dataclasses import replace

from weft.graph.analyses.forecast import Forecast
from weft.graph.ir import Node, Value
from weft.graph.ops.primitive import Prefill
from weft.graph.prompt import Fixed, Slot
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.engines import EngineState

from .conftest import DECODE, LLM, PREFILL, Driver, node, placed

SPEC = replace(LLM, kv_slots=10_000)
HEAD = Prefill("m", (Fixed("h" * 8000),))  # 2,000 tokens


def engine_of(driver: Driver, worker: str = "w0") -> EngineState:
    (engine,) = driver.scheduler._dispatcher.workers[worker].engines
    return engine


def begin(driver: Driver, run: str) -> str:
    """A shared head of 2,000 tokens and an own end of 100 are read, 50 are being written; where that is."""
    tail = Prefill("m", (Fixed((run * 400)[:400]),))
    nodes = (node(0, HEAD), node(1, tail, kv=0), node(2, DECODE, kv=1))
    forecasts = {
        0: Forecast(200.0, 700.0, reads=2000.0),
        1: Forecast(10.0, 500.0, reads=100.0),
        2: Forecast(490.0, 490.0, writes=50.0),
    }
    where = placed(driver.run(*nodes, run=run, forecasts=forecasts))[0][0]
    for number in (0, 1):
        driver.done(number, run=run)
    driver.send(ev.PromptRead(run, 2, 1))
    return where


def test_what_runs_begin_with_takes_its_place_once_and_as_long_as_one_of_them_needs_it() -> None:
    driver = Driver(("w0", SPEC))
    engine = engine_of(driver)
    for run in "ab":
        begin(driver, run)
    assert engine.kv in range(2300, 2310), "one head, two ends and answers"
    driver.send(ev.RunEnded("a"))
    assert engine.kv in range(2150, 2155), "b writes on what both have read"
    driver.done(2, run="b", usage=ev.Usage(2000, 100, 50))
    assert engine.kv == 0, "nobody takes its context any more"


def test_what_is_in_use_is_there_whatever_else_has_been_written() -> None:
    driver = Driver(("w0", SPEC), ("w1", SPEC))
    home = begin(driver, "a")
    engine_of(driver, home).written += 100 * SPEC.kv_slots
    assert begin(driver, "b") == home


def test_a_beginning_asks_for_what_follows_on_it_at_once() -> None:
    """Not for what waits for other texts: that is placed when they are there."""
    driver = Driver()
    later = Prefill("m", (Fixed("now: "), Slot("said")))
    nodes = [
        node(0, HEAD),
        node(1, Prefill("m", (Fixed("task"),)), kv=0),
        node(2, DECODE, kv=1),
        Node(3, later, {"kv": Value(0), "said": Value(2, 1)}, "n3", "app.py:1"),
        node(4, DECODE, kv=3),
    ]
    reads = {0: 2000.0, 1: 1.0, 3: 500.0}
    writes = {2: 50.0, 4: 700.0}
    forecasts = {
        n.id: Forecast(1.0, 1.0, reads=reads.get(n.id, 0.0), writes=writes.get(n.id, 0.0)) for n in nodes
    }
    driver.run(*nodes, forecasts=forecasts)
    demand = driver.scheduler._residency.demand(driver.scheduler._runs["r"].nodes[0])
    assert (demand.reads, demand.writes) == (2001.0, 50.0)


def test_a_chain_may_be_long() -> None:
    nodes = [node(0, HEAD), *(node(n, DECODE if n % 2 else PREFILL, kv=n - 1) for n in range(1, 3000))]
    driver = Driver(("w0", SPEC), ("w1", SPEC))
    assert placed(driver.run(*nodes))[0][1:] == ("r", 0)


def test_who_was_given_up_and_is_wanted_again_shares_nothing_with_itself() -> None:
    driver = Driver(("w0", replace(SPEC, shares_prefixes=True)))
    begin(driver, "a")
    live = driver.scheduler._runs["a"].nodes[2]
    assert live.shared == 0
    driver.send(ev.NodesShelved("a", (2,)))
    driver.send(ev.NodesTakenUp("a", (2,)))
    assert live.charge is not None
    assert live.shared == 0


def read(driver: Driver, run: str, number: int, text: str) -> None:
    """A prompt of 1,000 tokens of a run that grows."""
    prompt = Prefill("m", (Fixed((text * 4000)[:4000]),))
    driver.add(node(number, prompt), run=run, forecasts={number: Forecast(100.0, 100.0, reads=1000.0)})
    driver.done(number, run=run, usage=ev.Usage(0, 1000, 0))


def held(driver: Driver, run: str, number: int) -> float:
    prefix = driver.scheduler._runs[run].nodes[number].prefix
    assert prefix is not None
    return driver.scheduler._residency.directory.held(engine_of(driver), [prefix])


def test_of_a_run_that_holds_more_than_fits_what_it_has_not_used_for_long_is_gone() -> None:
    driver = Driver(("w0", SPEC))
    driver.run(node(0, PREFILL), grows=True)
    for number in range(1, 40):
        read(driver, "r", number, f"{number} ")
    assert held(driver, "r", 1) == 0
    assert held(driver, "r", 39) == 1000


def test_who_comes_back_holds_what_he_goes_on_from_and_not_all_he_ever_had() -> None:
    driver = Driver(("w0", SPEC), admission="everybody")
    driver.run(grows=True)
    for number in range(8):
        read(driver, "r", number, f"{number} ")
    driver.run(run="other", grows=True)
    for number in range(60):
        read(driver, "other", number, f"other {number} ")
    holding = driver.scheduler._runs["r"].holdings[engine_of(driver)]
    assert holding is not None
    assert holding.expired
    driver.add(node(100, PREFILL, kv=7), node(101, DECODE, kv=100))
    assert len(holding.claims) == 3
    assert held(driver, "r", 0) == 0
