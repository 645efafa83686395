"""Where primitives go: prefixes, queues, homes that are overloaded, and what the directory learns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weft.graph.analyses.forecast import Forecast
from weft.graph.analyses.objectives import LATENCY, Objective
from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.ir import Node
from weft.graph.ops.primitive import Prefill
from weft.graph.prompt import Fixed
from weft.runtime.scheduler import events as ev

from .conftest import DECODE, LLM, Driver, node, placed

COSTS = ModelCosts(
    (PrefillPoint(0, 100, 10.0), PrefillPoint(0, 1000, 100.0)),
    (DecodePoint(1, 100, 5.0), DecodePoint(64, 100, 10.0)),
    64,
)
SPEC = ev.EngineSpec("llm", "m", capacity=64, kv_slots=100_000, costs=COSTS)
WORKERS = tuple((f"w{number}", SPEC) for number in range(4))


def call(text: str, tail: str, writes: float = 50.0) -> tuple[tuple[Node, ...], dict[int, Forecast]]:
    """A prompt of a shared beginning and an own end, and a decode."""
    nodes = (node(0, Prefill("m", (Fixed(text), Fixed(tail)))), node(1, DECODE, kv=0))
    ms = (len(text) + len(tail)) / 40
    return nodes, {0: Forecast(ms, ms + 300, reads=ms * 10), 1: Forecast(300.0, 300.0, writes=writes)}


def place(driver: Driver, run: str, text: str, writes: float = 50.0) -> str:
    """Start a run; where it went."""
    nodes, forecasts = call(text, f"tail of {run}", writes)
    return placed(driver.run(*nodes, run=run, forecasts=forecasts))[0][0]


def finish(driver: Driver, run: str, cached: int, computed: int) -> None:
    driver.done(0, run=run, usage=ev.Usage(cached, computed))
    driver.done(1, run=run, usage=ev.Usage(cached + computed, 0, 50))
    driver.send(ev.RunEnded(run))


FAMILIES = [letter * 8000 for letter in "abcd"]  # 2,000 tokens each


def test_prompts_go_where_their_beginning_has_been_read_or_is_being_read() -> None:
    driver = Driver(*WORKERS, placement="affinity")
    homes = [place(driver, f"first {family[0]}", family) for family in FAMILIES]
    assert len(set(homes)) == 4, "families spread over workers that hold none of them"
    assert [place(driver, f"second {family[0]}", family) for family in FAMILIES] == homes, "in flight"
    for family in FAMILIES:
        finish(driver, f"first {family[0]}", 0, 2000)
        finish(driver, f"second {family[0]}", 2000, 4)
    assert [place(driver, f"third {family[0]}", family) for family in FAMILIES] == homes, "resident"


def test_a_long_queue_outweighs_a_short_prefix() -> None:
    driver = Driver(*WORKERS, placement="affinity")
    home = place(driver, "first", "x" * 400)
    finish(driver, "first", 0, 100)
    for number in range(2):
        place(driver, f"load{number}", f"{number}" + "y" * 40_000)
    places = {place(driver, f"short{number}", "x" * 400) for number in range(8)}
    assert home not in places


def test_a_skewed_mix_does_not_overload_the_holder() -> None:
    """All prompts of one family: its holder must not do everything while others idle."""
    driver = Driver(*WORKERS, placement="affinity")
    places = [place(driver, f"r{number}", FAMILIES[0], writes=200.0) for number in range(120)]
    counts = sorted(places.count(worker) for worker, _ in WORKERS)
    assert counts[-1] <= 1.5 * 120 / 4
    assert counts[0] > 0


def test_bulk_work_keeps_away_from_those_for_whose_tokens_somebody_waits() -> None:
    """Two workers have read the instructions of a bulk job; on one of them somebody waits for an answer."""
    for watched, expected in ((LATENCY, 1), (Objective("group", 9), 2)):
        driver = Driver(*WORKERS[:2], placement="affinity")

        def write(run: str, text: str, objective: Objective, driver: Driver = driver) -> str:
            nodes, known = call(text, f"tail of {run}", writes=100.0)
            forecasts = {number: replace(each, objective=objective) for number, each in known.items()}
            return placed(driver.run(*nodes, run=run, forecasts=forecasts))[0][0]

        group = Objective("group", 3)
        readers = {write(f"reader {number}", "i" * 400, group) for number in range(2)}
        assert len(readers) == 2
        for number in range(2):
            finish(driver, f"reader {number}", 0, 100)
        elsewhere = write("chat", "question", watched)
        used = {write(f"map {number}", "i" * 400, group) for number in range(2)}
        assert len(used) == expected
        assert expected == 2 or elsewhere not in used


@pytest.mark.parametrize("shares", [True, False])
def test_who_begins_alike_writes_where_that_is_read_once_for_all(shares: bool) -> None:
    """Elsewhere fewer tokens are in use, but here most of the own ones are read for somebody else already."""
    steps = (DecodePoint(1, 1000, 6.0), DecodePoint(10, 1000, 15.0), DecodePoint(10, 4000, 45.0))
    spec = replace(SPEC, costs=replace(COSTS, decode=steps), shares_prefixes=shares)
    driver = Driver(("w0", spec), ("w1", spec), placement="affinity")
    home = place(driver, "first", FAMILIES[0], writes=1000.0)
    assert place(driver, "else", "of something else", writes=1000.0) != home
    for run in ("first", "else"):
        driver.done(0, run=run)
        driver.send(ev.PromptRead(run, 1, 1))
    assert (place(driver, "second", FAMILIES[0], writes=1000.0) == home) == shares


def test_prompts_that_are_read_hold_back_nobody_while_their_answers_are_written() -> None:
    driver = Driver(WORKERS[0])
    begun, forecasts = call(FAMILIES[0], "a")
    assert placed(driver.run(*begun, run="a", forecasts=forecasts))
    waiting, forecasts = call(FAMILIES[1], "b")
    assert not placed(driver.run(*waiting, run="b", forecasts=forecasts)), "200 ms of prompts are enough"
    assert not placed(driver.done(0, run="a")), "without a word of its tokens: it is read with what follows"
    assert not placed(driver.send(ev.PromptRead("a", 1, 2))), "of another attempt"
    assert placed(driver.send(ev.PromptRead("a", 1, 1))) == [("w0", "b", 0), ("w0", "b", 1)]
    assert not placed(driver.send(ev.PromptRead("a", 1, 1)))


def test_what_begins_alike_does_not_fill_the_queue_of_the_only_worker_before_who_is_more_urgent() -> None:
    driver = Driver(WORKERS[0], placement="affinity")

    def begun(run: str, text: str, priority: int = 0) -> int:
        nodes, forecasts = call(text, f"tail of {run}")
        return len(placed(driver.run(*nodes, run=run, forecasts=forecasts, priority=priority)))

    assert [begun(f"bulk {number}", FAMILIES[0]) for number in range(4)] == [2, 0, 0, 0]
    assert not begun("chat", "question", priority=1)
    driver.done(0, run="bulk 0")
    moved = placed(driver.send(ev.PromptRead("bulk 0", 1, 1)))
    assert [run for _, run, _ in moved][:4] == ["chat", "chat", "bulk 1", "bulk 1"]


def test_wrong_entries_are_mended() -> None:
    driver = Driver(*WORKERS[:2], placement="affinity")
    home = place(driver, "first", FAMILIES[0])
    finish(driver, "first", 0, 2000)
    assert place(driver, "second", FAMILIES[0]) == home
    finish(driver, "second", 0, 2000)  # it was not there
    driver.send(ev.WorkerLost(home, "restarted"))
    driver.send(ev.WorkerJoined(home, (SPEC,)))
    (other,) = {worker for worker, _ in WORKERS[:2]} - {home}
    assert place(driver, "third", FAMILIES[0]) == other, "what joined anew holds nothing, and is the younger"


def test_namespaces_do_not_share_beginnings() -> None:
    driver = Driver(*WORKERS, placement="affinity")
    nodes, forecasts = call(FAMILIES[0], "")
    homes = [
        placed(driver.run(*nodes, run=name, forecasts=forecasts, namespace=name))[0][0] for name in "abcd"
    ]
    assert len(set(homes)) == 4


def fork(width: int) -> tuple[tuple[Node, ...], dict[int, Forecast]]:
    """A short shared beginning, and many long branches from it."""
    nodes = [node(0, Prefill("m", (Fixed("z" * 200),)))]
    forecasts = {0: Forecast(5.0, 3000.0, reads=50.0)}
    for number in range(1, width + 1):
        nodes.append(node(number, Prefill("m", (Fixed(f"{number}" * 8000),)), kv=0))
        nodes.append(node(1000 + number, DECODE, kv=number))
        forecasts[number] = Forecast(400.0, 2900.0, reads=4000.0)
        forecasts[1000 + number] = Forecast(500.0, 500.0, writes=100.0)
    return tuple(nodes), forecasts


def test_a_wide_fork_from_a_short_context_spreads() -> None:
    driver = Driver(*WORKERS, placement="affinity")
    nodes, forecasts = fork(16)
    actions = driver.run(*nodes, forecasts=forecasts)
    actions += driver.done(0, usage=ev.Usage(0, 50))
    done = 0
    while len(moved := [task for task in placed(actions) if 0 < task[2] < 1000]) < 16:
        actions += driver.done(moved[done][2], usage=ev.Usage(50, 4000))  # oldest first
        done += 1
    counts = [sum(worker == name for worker, _, _ in moved) for name, _ in WORKERS]
    assert max(counts) <= 8
    assert min(counts) >= 2


def test_a_run_stays_on_its_engine_unless_that_has_twice_the_mean_load() -> None:
    driver = Driver(*WORKERS, placement="sticky")
    homes = [place(driver, f"r{number}", FAMILIES[number]) for number in range(4)]
    for number in range(4):
        driver.done(0, run=f"r{number}", usage=ev.Usage(0, 2000))
    driver.done(1, run="r0")
    assert placed(driver.add(node(2, Prefill("m", (Fixed("q"),)), kv=1), run="r0"))[0][0] == homes[0]
    places = [
        placed(driver.add(node(3 + number, Prefill("m", (Fixed("q"),)), kv=1), run="r0"))[0][0]
        for number in range(12)
    ]
    assert places[:3] == [homes[0]] * 3, "up to twice the mean"
    assert places[3] != homes[0]


@pytest.mark.parametrize("placement", ["round_robin", "least_loaded", "sticky", "affinity"])
def test_nothing_is_placed_on_what_cannot_run_it(placement: str) -> None:
    driver = Driver(("a", LLM), ("b", ev.EngineSpec("llm", "other")), placement=placement)
    for number in range(5):
        assert {worker for worker, _, _ in placed(driver.run(*call("x", "y")[0], run=f"r{number}"))} == {"a"}
