from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weft.frontend.explanation import Explanation
from weft.frontend.generate import gen
from weft.frontend.program import program
from weft.frontend.report import RunReport
from weft.proto import orchestrator_pb2 as pb

if TYPE_CHECKING:
    from ..conftest import MiniServer

Explain = Callable[..., pb.ExplainResponse]


@pytest.fixture
def report(result: pb.RunResult) -> RunReport:
    return RunReport.of(result)


def test_the_text_says_where_the_time_went(report: RunReport) -> None:
    lines = str(report).splitlines()
    assert lines[0] == "run r-1 of 'answer': done after 260 ms"
    assert lines[1] == "models read 7 tokens, 5 of them cached, and wrote 9"
    assert lines[3] == "   100 ms   38%  tool"
    assert "    81 ms  %4 embed (ann/app.py:7) on e: 50 ms, predicted 0 ms" in lines
    assert any("was writing was there" in line for line in lines)
    assert "             10 ms in the queue of worker 'e', behind nothing of this run" in lines


def test_json_has_what_the_text_has(report: RunReport) -> None:
    data = json.loads(json.dumps(report.json()))
    assert [step["node"] for step in data["critical_path"]] == [1, 2, 4, 6, 7]
    assert sum(data["blame"].values()) == pytest.approx(data["milliseconds"]) == pytest.approx(260)
    assert data["critical_path"][2]["after"] == 2
    assert data["tokens"] == {"prompts": 7, "cached": 5, "written": 9}
    first = next(node for node in data["nodes"] if node["node"] == 1)
    assert (first["predicted"], first["critical"], first["location"]) == (25, True, "/home/ann/app.py:7")
    assert next(node for node in data["nodes"] if node["node"] == 5)["critical"] is False
    assert data["plan"] is None


def test_the_flowchart_marks_the_critical_path(report: RunReport) -> None:
    lines = report.mermaid().splitlines()
    assert lines[0] == "flowchart TD"
    assert '  n4["#37;4 embed#58; 50 ms on e"]:::critical' in lines
    assert '  n5["#37;5 prefill#58; 20 ms on w"]' in lines
    assert "  n2 --> n4" in lines  # it was not its operand: it held what was
    assert "  n4 --> n6" in lines


def test_the_plan_is_a_part_of_the_report(result: pb.RunResult, explain: Explain) -> None:
    plan = Explanation.of(explain())
    report = RunReport.of(result, plan=plan)
    assert report.json()["plan"] == plan.json()


def test_the_plan_of_another_program_is_refused(result: pb.RunResult, explain: Explain) -> None:
    other = pb.RunResult(info=pb.RunInfo(run="r-2", program="other"))
    with pytest.raises(ValueError, match=r"^the plan is of program 'answer', but run 'r-2' of 'other'"):
        RunReport.of(other, plan=Explanation.of(explain()))


def test_a_run_that_ended_before_anything_ran(tmp_path: Path) -> None:
    report = RunReport.of(pb.RunResult(info=pb.RunInfo(run="r", program="p", state="failed")))
    assert str(report).startswith("run r of 'p': failed after 0 ms")
    assert (report.blame, report.path) == ({}, ())
    assert "There are no nodes." in report.html(tmp_path / "run.html")


@program
def short(text: str) -> str:
    return gen(f"Shorten {text}")


@program
async def growing(text: str) -> str:
    first = await gen(f"Shorten {text}")
    return f"{first}!"


def test_a_run_explains_itself_when_it_is_over(server: MiniServer) -> None:
    run = short.submit("this")
    run.result()
    server.last.events[-1].finished.info.program = "short"
    report = run.explain(short.explain())
    assert (report.run, report.state) == (run.id, "done")
    assert report.plan is not None
    assert report.plan.program == "short"
    assert "The graph as written" in report.html()


def test_the_code_of_a_growing_program_is_blamed(
    server: MiniServer, stat: Callable[..., pb.NodeStat]
) -> None:
    run = growing.submit("this")
    run.result()
    finished = server.last.events[-1].finished
    finished.info.seconds = 0.3
    finished.info.stats.append(stat(1, "decode", 0.0, 0.1, decode=0.1))
    assert run.explain().blame == pytest.approx({"client": 200, "decode": 100})


def test_a_run_that_failed_is_explained_too(server: MiniServer) -> None:
    assert short.submit("FAIL").explain().state == "failed"
