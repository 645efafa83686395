"""The suite itself, on a real server, with two systems; and weft's way of running plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import suite
from comparison.measure import Bench
from plans import parrot
from plans.workload import Workload
from systems import PLAIN
from workloads.servers import http_server

from weft.runtime.config import REFERENCE_MODEL

ROW: dict[str, Any] = {
    "paper": "Helium",
    "shape": "",
    "calls": 1,
    "systems": {"weft": {"p50": 1.0, "p95": 1.0, "ms": [1.0]}},
    "differs": {},
    "right": None,
    "engine": {"weft": {"cached": 0, "computed": 1, "written": 1, "hit rate": 0.0}},
}


def test_a_short_run_compares_two_systems_and_writes_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    only = ["--only", "JSON fields", "--systems", "weft", "asyncio", "--no-load", "--quick"]
    assert suite.main([*only, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    (row,) = report["rows"]
    assert row["differs"] == {}
    assert row["right"]["right"] / row["right"]["of"] >= 0.9
    assert {len(found["ms"]) for found in row["systems"].values()} == {suite.QUICK.repeats}
    assert row["engine"]["weft"]["written"] == row["engine"]["asyncio"]["written"] > 0
    assert (row["engine"]["weft"]["runs"], row["engine"]["asyncio"]["runs"]) == (1, 4)
    assert "JSON fields" in out.with_suffix(".html").read_text()
    assert "JSON fields: " in capsys.readouterr().out


def test_arrivals_come_at_the_rates_and_to_the_workloads_that_were_named(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    only = ["--only", "LLM judge", "--systems", "weft", "asyncio", "--repeats", "1", "--out", str(out)]
    assert suite.main([*only, "--loaded", "LLM judge", "--rates", "2", "4", "--arrivals", "3"]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    alone_per_s = 1e3 / row["systems"]["weft"]["p50"]
    assert [(point["system"], point["offered per s"]) for point in row["load"]] == [
        (system, pytest.approx(rate * alone_per_s)) for rate in (2, 4) for system in ("weft", "asyncio")
    ]
    assert all(point["done per s"] > 0 for point in row["load"])


def test_weft_stands_in_front_of_the_server_that_others_call(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    only = ["--only", "LLM judge", "--systems", "weft", "asyncio", "--no-load", "--repeats", "1"]
    with http_server(REFERENCE_MODEL, tmp_path / "theirs") as theirs:
        assert suite.main([*only, "--url", theirs.url, "--out", str(out)]) == 0
        asked = len(theirs.client.runs(limit=200))
    report = json.loads(out.read_text())
    (row,) = report["rows"]
    assert report["model"] == f"reference, run by {theirs.url}"
    assert row["differs"] == {}
    assert row["engine"]["weft"]["runs"] == 1
    assert asked > 2 * row["calls"]


@pytest.mark.parametrize("usual", [[], ["--quick"]])
def test_there_are_cases_enough_for_what_is_usual(usual: list[str]) -> None:
    suite._options(usual)


def test_what_lacks_cases_is_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        suite.main(["--only", "search engine", "debate", "--repeats", "30"])
    assert left.value.code == 2
    told = "too few cases: lower --repeats or --arrivals, or leave out search engine\n"
    assert capsys.readouterr().err.endswith(told)


def test_what_was_measured_is_written_before_the_next_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "found.json"

    async def row(bench: object, workload: Workload, *_: object, **__: object) -> dict[str, Any]:
        if workload.name == "experts":
            raise RuntimeError("the machine was taken away")
        return ROW | {"workload": workload.name}

    monkeypatch.setattr(Bench, "row", row)
    with pytest.raises(RuntimeError, match="taken away"):
        suite.main(["--only", "debate", "experts", "--systems", "weft", "--no-load", "--out", str(out)])
    assert [row["workload"] for row in json.loads(out.read_text())["rows"]] == ["debate"]
    assert "debate" in out.with_suffix(".html").read_text()
    assert not list(tmp_path.glob("*.part"))


def test_weft_without_passes_has_a_server_of_its_own_and_the_same_results(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    only = ["--only", "LLM judge", "--systems", "weft", PLAIN, "--no-load", "--repeats", "2"]
    assert suite.main([*only, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    (row,) = report["rows"]
    assert row["differs"] == {}
    assert {name: len(found["ms"]) for name, found in row["systems"].items()} == {"weft": 2, PLAIN: 2}
    assert row["engine"][PLAIN]["runs"] == row["engine"]["weft"]["runs"] == 1


def test_far_clients_pay_the_way_for_every_call_and_weft_for_a_run(tmp_path: Path) -> None:
    """Bounds from below, which no fast machine undercuts: calls of a chain wait for each other."""
    out = tmp_path / "found.json"
    only = ["--only", "chain summary", "--systems", "weft", "sequential", "--no-load", "--repeats", "1"]
    assert suite.main([*only, "--delay-ms", "200", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    (row,) = report["rows"]
    assert row["differs"] == {}
    assert min(row["systems"]["weft"]["ms"]) >= 200
    assert min(row["systems"]["sequential"]["ms"]) >= parrot.LINKS * 200
    assert report["model"] == "reference, clients 200 ms away, there and back"


def test_rows_can_only_be_added_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        suite.main(["--add"])
    assert "--add needs --out FILE" in capsys.readouterr().err


def test_what_does_not_belong_to_a_file_is_refused_before_it_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    out.write_text(json.dumps({"machine": "another", "rows": [], "command": ""}))
    assert suite.main(["--add", "--out", str(out)]) == 2
    assert "the reports differ in machine: 'another' and" in capsys.readouterr().err


def test_random_weights_write_as_much_as_their_steps_allow_in_every_system(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    only = ["--only", "chain summary", "--systems", "weft", "asyncio", "unshared", "--quick"]
    assert suite.main([*only, "--shape", "tiny-llama", "--length", "2", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    (row,) = report["rows"]
    assert {found["written"] for found in row["engine"].values()} == {parrot.LINKS * 50}
    assert row["right"] is None
    assert row["engine"]["unshared"]["cached"] == 0 < row["engine"]["asyncio"]["cached"]
    assert report["model"].startswith("random tiny-llama, ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--shape", "tiny-llama", "--model", "elsewhere"], "--shape draws a model of its own"),
        (["--length", "0"], "--length must be at least 1, not 0"),
        (["--papers", "--length", "2"], "--papers has lengths of its own: leave out --length"),
        (["--repeats", "0"], "--repeats must be at least 1, not 0"),
    ],
)
def test_contradictory_options_are_refused(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        suite.main(given)
    assert said in capsys.readouterr().err
