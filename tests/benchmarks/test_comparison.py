"""What a report says, and that its page is well formed."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from comparison import page, plots, summary


def times(*ms: float) -> dict[str, Any]:
    return {"p50": sorted(ms)[len(ms) // 2], "p95": max(ms), "ms": list(ms)}


def counted(computed: int, **more: Any) -> dict[str, Any]:
    return {"cached": 100, "computed": computed, "written": 10, "hit rate": 100 / (100 + computed), **more}


def row(name: str, weft: float, langgraph: float, **more: Any) -> dict[str, Any]:
    return {
        "workload": name,
        "paper": "Parrot",
        "shape": "a <shape>",
        "calls": 3,
        "systems": {"weft": times(weft, weft + 2, weft - 1), "langgraph": times(langgraph)},
        "differs": {},
        "right": {"right": 4, "of": 5},
        "engine": {
            "weft": counted(50, blame={"decode": 30.0, "queue": 10.0}),
            "langgraph": counted(80),
        },
        **more,
    }


def report(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "command": "weft bench suite",
        "date": "2026-01-02",
        "machine": "a machine, 2 cores",
        "model": "reference",
        "seed": 1,
        "systems": ["weft", "langgraph"],
        "versions": {"langgraph": "1.2"},
        "rows": list(rows),
        **more,
    }


LOAD = [
    {"system": name, "offered per s": rate, "done per s": rate * 0.9, "p95": 50.0 * rate}
    for name in ("weft", "langgraph")
    for rate in (1.0, 2.0)
]


def test_ratios_are_of_medians_and_their_median_is_over_the_rows() -> None:
    found = report(row("a", 10, 20), row("b", 10, 13), row("c", 30, 15))
    assert summary.overall(found) == {"weft": pytest.approx(1.3), "langgraph": 1.0}
    assert [summary.fastest(each) for each in found["rows"]] == ["weft", "weft", "langgraph"]


def test_a_row_that_weft_does_not_win_says_what_was_counted() -> None:
    assert summary.reason(row("a", 10, 20)) == ""
    said = summary.reason(row("c", 30, 15))
    assert said == (
        "langgraph is 100.0% faster; the engine read 50 tokens for weft, 80 for langgraph; "
        "weft's critical path is decode 75%, queue 25%"
    )
    assert "within the noise" in summary.reason(row("d", 101, 100))


def test_the_table_marks_the_fastest_and_tells_what_differs() -> None:
    said = summary.text(report(row("a", 10, 20), row("c", 30, 15, differs={"langgraph": 2})))
    assert said.splitlines() == [
        "a machine, 2 cores, 2026-01-02, model reference; langgraph 1.2",
        "weft bench suite",
        "",
        "median (P95), ms                 weft      langgraph  x langgraph",
        "a                            *10 (12)        20 (20)         2.00",
        "c                             30 (32)       *15 (15)         0.50",
        "",
        "x langgraph, median              1.25           1.00",
        "",
        "a: 4 of 5 answers are right",
        "c: results differ from those of weft: langgraph in 2",
        "c: 4 of 5 answers are right",
        f"c: weft is not the fastest: {summary.reason(row('c', 30, 15))}",
    ]


def test_reports_of_one_machine_are_merged_by_workload() -> None:
    older, newer = report(row("a", 10, 20), row("b", 1, 2)), report(row("b", 3, 4), command="again")
    found = summary.merged(older, newer)
    assert [each["workload"] for each in found["rows"]] == ["a", "b"]
    assert found["rows"][1]["systems"]["weft"]["p50"] == 3
    assert found["command"] == "weft bench suite; again"
    with pytest.raises(ValueError, match="differ in machine: 'other' and 'a machine, 2 cores'"):
        summary.merged(report(machine="other"), newer)


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    shown = page.page(report(row("a & b", 10, 20, load=LOAD), row("c", 30, 15)))
    body = shown[shown.index("<body>") :].removesuffix("</html>\n").replace("<br>", "<br/>")
    tree = ElementTree.fromstring(body)  # raises if a tag is open or a text is not escaped
    titles = [text.text for text in tree.iter("text") if text.get("class") == "title"]
    assert titles == ["a & b", "c", "a & b: runs done in a second", "a & b: P95 latency", "hit rate"]
    assert len(tree.findall(".//table/tbody/tr")) == 3
    assert not {"src", "href"} & {name for element in tree.iter() for name in element.attrib}


def test_a_plot_stays_within_its_frame() -> None:
    drawn = plots.lines("t", "x", "y", {"a": [(0, 0), (7, 130.5)]}, {"a": "#000"})
    (line,) = ElementTree.fromstring(drawn).iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert all(0 <= x <= 420 and 0 <= y <= 240 for x, y in points)
    assert points[1][0] > points[0][0]
    assert points[1][1] < points[0][1]


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (350, "100 200 300 400"),
        (0.03, "0.008 0.016 0.024 0.032"),
        (1000, "250 500 750 1000"),
        (0, "0.25 0.5"),
    ],
)
def test_ticks_are_short_numbers(most: float, ticks: str) -> None:
    drawn = ElementTree.fromstring(plots.lines("t", "x", "y", {"a": [(0, 0), (most, 1)]}, {"a": "#000"}))
    assert set(ticks.split()) <= {text.text for text in drawn.iter("text")}
