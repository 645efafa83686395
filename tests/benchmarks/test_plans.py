"""The workloads: plans that weft can run as they are, and cases that fit them."""

from __future__ import annotations

import pytest
from plans import helium, parrot, sglang, teola, trading
from plans.language import Ask, Compute, Each
from plans.workload import Workload, World
from systems.weft_programs import as_program

WORKLOADS = [workload for paper in (teola, parrot, sglang, helium, trading) for workload in paper.WORKLOADS]


@pytest.fixture(scope="module")
def world() -> World:
    return World(3)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_cases_fit_the_plan_and_differ(workload: Workload, world: World) -> None:
    cases = workload.cases(world, 6)
    assert all(set(case.inputs) == set(workload.plan.inputs) for case in cases)
    lists = {name for case in cases for name, value in case.inputs.items() if isinstance(value, list)}
    assert lists == workload.plan.lists
    assert len({str(case.inputs) for case in cases}) == 6
    assert cases == workload.cases(World(3), 6)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_weft_traces_a_plan_without_python_as_one_graph(workload: Workload) -> None:
    if any(isinstance(step, Compute) for step in workload.plan.steps):
        pytest.skip("its graph grows while it runs")
    graph = as_program(workload.plan, "index").graph()
    inputs = [node for node in graph if node.op.label().startswith("input")]
    assert len(inputs) == len(workload.plan.inputs)


def test_trading_has_the_agents_and_calls_of_the_paper() -> None:
    plan = trading.TRADING
    agents = len(trading.SOURCES) + len(trading.RESEARCHERS) + len(trading.TRADERS) + len(trading.RISKS) + 3
    assert agents == 19  # the three: research manager, judge, fund manager
    lists = {**trading.SOURCES, "traders": len(trading.TRADERS)}
    calls = sum(
        step.body.asks() * lists[step.over] if isinstance(step, Each) else isinstance(step, Ask)
        for step in plan.steps
    )
    assert calls == 88
