from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.frontend.report.tasks import CLIENT, ORCHESTRATOR, Task
from weft.proto import orchestrator_pb2 as pb

MakeStat = Callable[..., pb.NodeStat]

SECONDS = st.floats(0, 5)


def shown(task: Task) -> list[tuple[str, int]]:
    """The phases and their lengths in milliseconds."""
    return [(part.phase, round(part.ms)) for part in task.slices]


@given(
    st.tuples(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS),
    st.sampled_from(["w", ORCHESTRATOR, CLIENT]),
    st.sampled_from(["llm", "tool", "host"]),
)
def test_each_moment_is_spent_on_one_thing(
    stat: MakeStat, times: tuple[float, ...], worker: str, kind: str
) -> None:
    ready, dispatched, finished, queued, prefill, decode, compute = times
    message = stat(
        1,
        "x",
        ready,
        finished,
        dispatched_s=dispatched,
        worker=worker,
        kind=kind,
        queued=queued,
        prefill=prefill,
        decode=decode,
        compute=compute,
    )
    task = Task.of(message)
    assert sum(part.ms for part in task.slices) == pytest.approx((task.finished_s - task.ready_s) * 1e3)
    assert all(one.end_s == two.start_s for one, two in pairwise(task.slices))
    assert task.work_ms + task.wait_ms == pytest.approx((task.finished_s - task.ready_s) * 1e3)


def test_what_the_worker_does_not_account_for_went_by_on_the_way(stat: MakeStat) -> None:
    task = Task.of(stat(1, "decode", 1.0, 1.1, dispatched_s=1.01, queued=0.02, prefill=0.01, decode=0.05))
    assert shown(task) == [("wait", 10), ("transfer", 10), ("queue", 20), ("prefill", 10), ("decode", 50)]
    assert (round(task.work_ms), round(task.wait_ms)) == (60, 40)


def test_a_worker_that_claims_more_than_there_was_is_cut_short(stat: MakeStat) -> None:
    assert shown(Task.of(stat(1, "decode", 0.0, 0.1, queued=0.5, decode=0.08))) == [
        ("queue", 20),
        ("decode", 80),
    ]


@pytest.mark.parametrize(
    ("worker", "kind", "phases"),
    [
        ("w", "tool", [("transfer", 40), ("tool", 60)]),
        ("w", "embed", [("transfer", 40), ("compute", 60)]),
        (CLIENT, "tool", [("tool", 40), ("tool", 60)]),
    ],
)
def test_time_outside_of_models_is_told_apart(
    stat: MakeStat, worker: str, kind: str, phases: list[tuple[str, int]]
) -> None:
    assert shown(Task.of(stat(1, "x", 0.0, 0.1, worker=worker, kind=kind, compute=0.06))) == phases


def test_all_time_on_the_orchestrator_is_its_own(stat: MakeStat) -> None:
    task = Task.of(stat(1, "format", 0.0, 0.1, worker=ORCHESTRATOR, kind="host", dispatched_s=0.09))
    assert shown(task) == [("orchestrator", 90), ("orchestrator", 10)]


def test_the_name_has_the_end_of_the_path(stat: MakeStat) -> None:
    assert Task.of(stat(1, "x", 0, 1)).name == "%1 x (ann/app.py:7)"
    assert Task.of(stat(1, "x", 0, 1, location="")).name == "%1 x"
