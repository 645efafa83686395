"""Pages as documents: well formed, complete, harmless, and readable without pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from weft.frontend.explanation import Explanation
from weft.frontend.report import RunReport
from weft.frontend.report.markup import Markup, join, tag
from weft.proto import orchestrator_pb2 as pb

MakeStat = Callable[..., pb.NodeStat]
Explain = Callable[..., pb.ExplainResponse]

EVIL = "</script></style><script>alert('x')</script>\"&<b>"
_VOID = {"meta"}


class Document(HTMLParser):
    """What a page says. Fails on elements that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def pages(result: pb.RunResult, response: pb.ExplainResponse) -> list[str]:
    plan = Explanation.of(response)
    return [plan.html(), RunReport.of(result).html(), RunReport.of(result, plan=plan).html()]


def test_a_page_needs_nothing_but_itself(result: pb.RunResult, explain: Explain) -> None:
    for page in pages(result, explain()):
        document = Document(page)
        assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
        assert document.tags["title"] >= 1
        assert not {"script", "link", "img", "iframe", "object"} & set(document.tags)
        links = [value for _, name, value in document.attributes if name in ("href", "src")]
        assert all(link.startswith("#") for link in links)
        style = re.search("<style>(.*)</style>", page, re.DOTALL)
        assert style is not None
        assert "url(" not in style[1]
        assert "@import" not in style[1]


def test_links_lead_to_sections_that_are_there(result: pb.RunResult, explain: Explain) -> None:
    for page in pages(result, explain()):
        document = Document(page)
        ids = [value for _, name, value in document.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        assert {value for _, name, value in document.attributes if name == "href"} <= {
            f"#{one}" for one in ids
        }


def test_drawings_have_alternatives_and_scroll_by_keyboard(result: pb.RunResult, explain: Explain) -> None:
    for page in pages(result, explain()):
        document = Document(page)
        drawn = [value for tag, name, value in document.attributes if tag == "svg" and name == "aria-label"]
        assert len(drawn) == document.tags["svg"] > 0
        assert all(drawn)
        assert document.attributes.count(("div", "class", "scroll")) == document.attributes.count(
            ("div", "tabindex", "0")
        )


def test_whatever_data_say_is_text(stat: MakeStat, explain: Explain) -> None:
    stats = [stat(1, EVIL, 0.0, 0.1, location=f"/x/{EVIL}", worker=EVIL, kind=EVIL, decode=0.1)]
    info = pb.RunInfo(run=EVIL, program="answer", state=EVIL, seconds=0.1, stats=stats)
    for page in pages(pb.RunResult(info=info), explain(EVIL, EVIL)):
        document = Document(page)
        assert document.tags["script"] == document.tags["b"] == 0
        assert EVIL in document.text
        assert page.count("</style>") == 1


def test_a_notebook_gets_a_frame_of_its_own(result: pb.RunResult, explain: Explain) -> None:
    for report in (Explanation.of(explain(EVIL)), RunReport.of(result)):
        document = Document(report._repr_html_())
        assert document.tags == {"iframe": 1}
        (inner,) = [value for _, name, value in document.attributes if name == "srcdoc"]
        assert inner == report.html()


def test_a_page_is_written_where_it_is_wanted(tmp_path: Path, explain: Explain) -> None:
    explanation = Explanation.of(explain("Zürich"))
    page = explanation.html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert "Zürich" in page


def test_the_page_of_a_program_has_changes_refusals_and_bodies(explain: Explain) -> None:
    text = Document(Explanation.of(explain()).html()).text
    for words in (
        "cut in two",
        "known as early",
        "known together",
        "body of %4 map",
        "40 ms",
        "%3 project 'part'",
    ):
        assert words in text


def test_the_page_of_a_run_says_what_was_waited_for(result: pb.RunResult) -> None:
    document = Document(RunReport.of(result).html())
    assert "10 ms in the queue of worker 'e', behind nothing of this run" in document.text
    assert (
        "ready when the part that it takes of what %2 decode 'plan' (ann/app.py:7) was writing was there"
        in (document.text)
    )
    lanes = re.findall(r'class="lane">([^<]+)</text>', RunReport.of(result).html())
    assert lanes == ["orchestrator", "e", "w", "client"]


def test_bars_on_one_row_do_not_overlap(stat: MakeStat) -> None:
    stats = [stat(n, "decode", n % 3 / 10, n % 3 / 10 + 0.15, decode=0.15) for n in range(9)]
    info = pb.RunInfo(run="r", program="p", seconds=0.4, stats=stats)
    page = RunReport.of(pb.RunResult(info=info)).html()
    found = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="16" class="phase', page)
    rows: dict[str, list[tuple[float, float]]] = {}
    for x, y, width in found:
        rows.setdefault(y, []).append((float(x), float(x) + float(width)))
    assert len(found) == 9
    for row in rows.values():
        row.sort()
        assert all(one[1] <= two[0] for one, two in pairwise(row))


def test_of_huge_runs_the_critical_path_is_drawn(stat: MakeStat) -> None:
    stats = [stat(n, "x", 0.0, 0.1 + n / 1000, decode=0.1) for n in range(500)]
    info = pb.RunInfo(run="r", program="p", seconds=0.6, stats=stats)
    page = RunReport.of(pb.RunResult(info=info)).html()
    document = Document(page)
    assert "500 nodes are too many to draw" in document.text
    assert "500 primitives are too many to draw" in document.text
    assert page.count('class="box') == 1
    assert document.tags["tr"] > 500


def test_markup_is_built_not_pasted() -> None:
    assert tag("p", "a < b", [1, tag("b", "&")], class_="x", hidden=True, id=None) == Markup(
        '<p class="x" hidden>a &lt; b1<b>&amp;</b></p>'
    )
    assert tag("line", x1=1 / 3, stroke_width=2.0) == '<line x1="0.33" stroke-width="2"/>'
    assert join("<", Markup("<")) == "&lt;<"


@pytest.mark.parametrize("seconds", [1e-7, 0.0001, 0.26, 7.0, 4000.0])
def test_the_axis_has_a_few_round_marks(stat: MakeStat, seconds: float) -> None:
    info = pb.RunInfo(run="r", program="p", seconds=seconds, stats=[stat(1, "x", 0.0, seconds)])
    page = RunReport.of(pb.RunResult(info=info)).html()
    assert 1 <= page.count("<line x1") - page.count('class="lane"/>') <= 10
