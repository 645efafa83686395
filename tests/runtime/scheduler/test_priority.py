"""Whose turn it is: priorities, deadlines, attained service, and shares of namespaces."""

from __future__ import annotations

from typing import Any

import pytest

from weft.graph.analyses.forecast import Forecast
from weft.graph.ops.common import Format, Tool
from weft.runtime.scheduler import events as ev

from .conftest import EMBED, Driver, node, placed

ONE_BY_ONE = ev.EngineSpec("embed", "hash", capacity=1)


def order_of(driver: Driver, first: str = "first") -> list[str]:
    """Let the only engine end one task after the other, each in no time; the runs in that order."""
    served = [first]
    while moved := placed(driver.done(0, run=served[-1])):
        served.append(moved[0][1])
    return served[1:]


def busy(**policies: Any) -> Driver:
    driver = Driver(("e", ONE_BY_ONE), **policies)
    driver.run(node(0, EMBED), run="first")
    return driver


def one(driver: Driver, run: str, ms: float = 100.0, **how: Any) -> None:
    driver.run(node(0, EMBED), run=run, forecasts={0: Forecast(ms, ms)}, **how)


def test_the_least_work_goes_first_but_waiting_counts_as_much_as_work() -> None:
    driver = busy(priority="remaining")
    one(driver, "long", 10_000.0)
    one(driver, "short", 1_000.0)
    driver.now += 9.5
    one(driver, "shortest", 100.0)
    driver.now += 1.0
    one(driver, "late", 100.0)
    assert order_of(driver) == ["short", "shortest", "long", "late"]


def test_engines_are_told_how_long_it_counts_as_having_waited() -> None:
    driver = busy(priority="remaining", longest_wait_s=20.0)
    one(driver, "short", 1_000.0, priority=3)
    one(driver, "long", 60_000.0)
    driver.now += 10.0
    one(driver, "late", 2_000.0)
    starts = {run: driver.scheduler.head_start(run, 0) for run in ("short", "long", "late", "over")}
    assert starts == pytest.approx({"short": 9.0, "long": -20.0, "late": -2.0, "over": 0.0})


def test_the_work_of_all_branches_counts_and_no_time_of_tools() -> None:
    driver = busy(priority="remaining")
    nodes = [node(n, EMBED) for n in range(20)]
    driver.run(*nodes, run="wide", forecasts={n: Forecast(400.0, 400.0) for n in range(20)})
    one(driver, "narrow", 1_000.0)
    talk = {0: Forecast(500.0, 60_500.0), 1: Forecast(60_000.0, 60_000.0)}
    driver.run(node(0, EMBED), node(1, Tool("ask"), x=0), run="talk", forecasts=talk)
    assert order_of(driver)[:3] == ["talk", "narrow", "wide"]


def test_what_is_done_counts_no_more() -> None:
    driver = busy(priority="remaining")
    late = {0: Forecast(9_000.0), 1: Forecast(100.0)}
    driver.run(node(0, Format(())), node(1, EMBED, x=0), run="late", forecasts=late)
    one(driver, "other", 1_000.0)
    driver.done(0, run="late")
    assert order_of(driver)[0] == "late"


def test_programs_in_order_of_their_beginning() -> None:
    driver = busy(priority="arrival")
    one(driver, "long", 10_000.0)
    one(driver, "short", 1_000.0)
    one(driver, "urgent", 1_000.0, priority=1)
    assert order_of(driver) == ["urgent", "long", "short"]


def test_a_near_deadline_goes_before_shorter_work() -> None:
    driver = busy(priority="remaining")
    one(driver, "short", 100.0)
    one(driver, "due", 5_000.0, deadline=driver.now + 5.0)
    one(driver, "due later", 5_000.0, deadline=driver.now + 60.0)
    assert order_of(driver) == ["due", "short", "due later"]


def test_programs_of_unknown_length_count_by_what_they_have_had() -> None:
    for priority in ("attained", "remaining"):
        driver = busy(priority=priority)
        for run, ms in (("much", 5_000.0), ("little", 500.0)):
            one(driver, run, ms, grows=True)
        assert len(order_of(driver)) == 2
        one(driver, "blocks", 1.0)
        driver.now += 1.0
        for run in ("much", "little"):
            driver.add(node(1, EMBED), run=run, forecasts={1: Forecast(100.0, 100.0)})
        moved = placed(driver.done(0, run="blocks"))
        assert moved[0][1] == "little", priority


def test_namespaces_share_engines_by_weight_however_much_they_ask_for() -> None:
    driver = busy(weights={"heavy": 3.0}, priority="arrival")
    for number in range(40):
        one(driver, f"flood{number}", namespace="flood")
    for number in range(30):
        one(driver, f"heavy{number}", namespace="heavy")
    served = order_of(driver)[:24]
    assert sum(run.startswith("heavy") for run in served) == 18
    driver = busy(fairness="none", priority="arrival")
    for number in range(40):
        one(driver, f"flood{number}", namespace="flood")
    one(driver, "small", namespace="small")
    assert order_of(driver)[-1] == "small"


def test_a_namespace_that_asked_for_nothing_has_no_claim_to_more_later() -> None:
    driver = busy(priority="arrival")
    for number in range(20):
        one(driver, f"a{number}", namespace="a")
    for number in range(10):
        placed(driver.done(0, run="first" if number == 0 else f"a{number - 1}"))
    for number in range(20):
        one(driver, f"b{number}", namespace="b")
    served = order_of(driver, "a9")[:10]
    assert 4 <= sum(run.startswith("b") for run in served) <= 6
