from __future__ import annotations

from collections.abc import Callable

from weft.frontend.report import RunReport
from weft.frontend.report.waits import begun_by, waits
from weft.proto import orchestrator_pb2 as pb

MakeStat = Callable[..., pb.NodeStat]


def words(seconds: float, *stats: pb.NodeStat, grows: bool = False) -> list[str]:
    """What the last step of a run waited for."""
    info = pb.RunInfo(run="r", program="p", seconds=seconds, stats=stats)
    report = RunReport.of(pb.RunResult(info=info), grows=grows)
    found = waits(report.path[-1], report.tasks.values())
    return [begun_by(report.path[-1]), *(f"{wait.ms:.0f} {wait.phase} {wait.text}" for wait in found)]


def test_the_queue_names_what_stood_before_it(stat: MakeStat) -> None:
    assert words(
        0.5,
        stat(1, "prefill", 0.0, 0.3, prefill=0.3),
        stat(2, "decode", 0.1, 0.5, queued=0.2, decode=0.19, operands=(0,)),
        stat(3, "decode", 0.1, 0.25, decode=0.05),
        stat(4, "score", 0.1, 0.22, prefill=0.01),
        stat(5, "embed", 0.1, 0.3, worker="other", compute=0.2),
    ) == [
        "ready when the run began",
        "100 orchestrator for the orchestrator to begin the run",
        "200 queue in the queue of worker 'w', behind %1 prefill (ann/app.py:7) (190 ms), "
        "%3 decode (ann/app.py:7) (50 ms) and 1 more",
        "10 transfer for messages to worker 'w' and back",
    ]


def test_a_free_worker_was_behind_nothing(stat: MakeStat) -> None:
    assert words(0.2, stat(1, "decode", 0.0, 0.2, dispatched_s=0.1, decode=0.1)) == [
        "ready when the run began",
        "100 wait in the orchestrator's queue for worker 'w', behind nothing of this run",
    ]


def test_the_orchestrators_queue_is_told_from_that_of_the_worker(stat: MakeStat) -> None:
    assert words(
        0.5,
        stat(1, "prefill", 0.0, 0.3, prefill=0.3),
        stat(2, "decode", 0.0, 0.5, dispatched_s=0.2, queued=0.1, decode=0.2, operands=()),
    ) == [
        "ready when the run began",
        "200 wait in the orchestrator's queue for worker 'w', behind %1 prefill (ann/app.py:7) (200 ms)",
        "100 queue in the queue of worker 'w', behind %1 prefill (ann/app.py:7) (100 ms)",
    ]


def test_a_growing_program_waits_for_its_own_code(stat: MakeStat) -> None:
    assert words(
        0.6,
        stat(1, "decode", 0.0, 0.2, decode=0.2),
        stat(2, "decode", 0.3, 0.5, decode=0.2),
        grows=True,
    ) == [
        "came into the graph after %1 decode (ann/app.py:7) had finished",
        "100 client for the program's own code to add it to the graph after %1 decode (ann/app.py:7)",
        "100 client for the program to return",
    ]


def test_bodies_wait_for_the_orchestrator_to_open_them(stat: MakeStat) -> None:
    assert words(
        0.6,
        stat(1, "decode", 0.0, 0.2, decode=0.2),
        stat(2, "decode", 0.3, 0.5, decode=0.2),
    )[1:] == [
        "100 orchestrator for the orchestrator to open this part of the graph after %1 decode (ann/app.py:7)",
        "100 orchestrator for the orchestrator to end the run",
    ]


def test_parts_of_a_text_are_named(stat: MakeStat) -> None:
    assert words(
        0.5,
        stat(1, "decode", 0.0, 0.4, decode=0.4, generated_tokens=3),
        stat(2, "tool", 0.2, 0.5, worker="client", dispatched_s=0.25, kind="tool"),
    ) == [
        "ready when the part that it takes of what %1 decode (ann/app.py:7) was writing was there",
        "50 wait in the orchestrator's queue for the program's process, behind nothing of this run",
    ]
