from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.frontend.report import RunReport
from weft.frontend.report.diagram import of_tasks
from weft.frontend.report.path import Step, blame, critical_path
from weft.frontend.report.tasks import Task
from weft.proto import orchestrator_pb2 as pb

MakeStat = Callable[..., pb.NodeStat]


def tasks(*stats: pb.NodeStat) -> dict[int, Task]:
    return {stat.node: Task.of(stat) for stat in stats}


def shown(steps: tuple[Step, ...]) -> list[tuple[int, str, int]]:
    """Of each step its node, by what it became ready, and its share in milliseconds."""
    return [(step.task.node, step.cause.kind if step.cause else "", round(step.ms)) for step in steps]


def test_the_last_operand_is_what_a_task_waited_for(stat: MakeStat) -> None:
    found = tasks(
        stat(1, "prefill", 0.0, 0.1),
        stat(2, "search", 0.0, 0.3),
        stat(3, "decode", 0.3, 0.5, operands=(1, 2)),
        stat(4, "embed", 0.0, 0.45),
    )
    assert shown(critical_path(found, 0.5, "orchestrator")) == [(2, "", 300), (3, "finished", 200)]


def test_an_element_is_followed_to_the_text_that_it_stands_in(stat: MakeStat) -> None:
    found = tasks(
        stat(1, "decode", 0.0, 0.5, decode=0.5, generated_tokens=20),
        stat(3, "search", 0.2, 0.9, operands=(2,)),
        stat(8, "decode", 0.1, 0.4, decode=0.3, generated_tokens=20),
        stat(9, "format", 0.15, 0.19, worker="orchestrator"),
    )
    planned = critical_path(found, 0.9, "orchestrator", {2: (1,)})
    assert shown(planned) == [(1, "", 200), (3, "written", 700)]
    guessed = critical_path(found, 0.9, "orchestrator")
    assert shown(guessed) == [(1, "", 100), (8, "written", 100), (3, "written", 700)]


def test_what_was_added_later_follows_what_ended_last_before(stat: MakeStat) -> None:
    found = tasks(
        stat(1, "decode", 0.0, 0.2, decode=0.2),
        stat(2, "prefill", 0.25, 0.4, prefill=0.15),
        stat(3, "const", 0.24, 0.25, worker="orchestrator"),
    )
    steps = critical_path(found, 0.5, "client")
    assert shown(steps) == [(1, "", 200), (2, "added", 300)]
    assert [round(ms) for ms in blame(steps).values()] == [200, 150, 150]
    assert blame(steps)["client"] == pytest.approx(150)


def test_nothing_follows_from_no_tasks() -> None:
    assert critical_path({}, 0.5, "client") == ()


@st.composite
def runs(draw: st.DrawFn) -> tuple[dict[int, Any], float]:
    """Runs whose tasks start when their operands have ended, or some time after."""
    made: dict[int, Any] = {}
    for node in range(draw(st.integers(1, 12))):
        operands = draw(st.sets(st.sampled_from(range(node)))) if node else set()
        ready = max([made[one]["finished_s"] for one in operands], default=0.0)
        ready += draw(st.sampled_from([0.0, 0.0, 0.5]))
        spent = draw(st.floats(0, 2))
        made[node] = {
            "operands": tuple(operands),
            "ready_s": ready,
            "finished_s": ready + spent,
            "decode": draw(st.floats(0, 2)),
            "dispatched_s": ready + draw(st.floats(-1, 1)),
            "generated_tokens": draw(st.integers(0, 1)),
            "worker": draw(st.sampled_from(["a", "b", "orchestrator"])),
        }
    return made, max(one["finished_s"] for one in made.values()) + draw(st.floats(0, 1))


@given(runs())
def test_the_path_accounts_for_each_moment_once(stat: MakeStat, run: tuple[dict[int, Any], float]) -> None:
    made, end = run
    found = tasks(*(stat(node, "x", **fields) for node, fields in made.items()))
    steps = critical_path(found, end, "orchestrator")
    assert sum(blame(steps).values()) == pytest.approx(end * 1e3)
    parts = [part for step in steps for part in step.slices]
    assert all(one.end_s == pytest.approx(two.start_s) for one, two in pairwise(parts))
    diagram = of_tasks(RunReport("r", "p", "done", end, found, steps))
    order = [box.id for box in diagram.boxes]
    assert sorted(order) == sorted(found)
    assert all(order.index(one) < order.index(two) for one, two in diagram.edges)
    assert diagram.path <= set(diagram.edges)
    assert all(step.cause.task.ready_s <= step.task.ready_s for step in steps if step.cause)
    for step in steps:
        if step.cause is not None and step.cause.kind == "finished":
            assert step.cause.task.node in step.task.operands
