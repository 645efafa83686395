"""Reports of runs: blame that adds up, and pages that are safe and whole."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.frontend.explanation import Explanation
from weft.frontend.report import RunReport
from weft.graph import draw
from weft.graph.codec import encode_graph
from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import LiveGraph
from weft.graph.ops.common import Input
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.proto import graph_pb2, worker_pb2
from weft.proto import orchestrator_pb2 as pb

EVIL = '</script><img src=x onerror="alert(1)">'


@st.composite
def results(draw: st.DrawFn) -> pb.RunResult:
    """A run of up to eight primitives, each begun after what it takes has ended, perhaps much later."""
    stats: list[pb.NodeStat] = []
    gaps = st.floats(0, 0.2)
    for number in range(draw(st.integers(1, 8))):
        makers = draw(st.lists(st.sampled_from(stats), max_size=2)) if stats else []
        ready = max((maker.finished_s for maker in makers), default=0.0) + draw(gaps)
        dispatched = ready + draw(gaps)
        timing = worker_pb2.Timing(queued=draw(gaps), prefill=draw(gaps), decode=draw(gaps))
        spent = timing.queued + timing.prefill + timing.decode
        stats.append(
            pb.NodeStat(
                node=number,
                label=f"%{number} decode",
                worker=draw(st.sampled_from(["w1", "w2"])),
                kind="llm",
                ready_s=ready,
                dispatched_s=dispatched,
                finished_s=dispatched + spent + draw(gaps),
                timing=timing,
                operands=[graph_pb2.Value(node=maker.node) for maker in makers],
            )
        )
    seconds = max((stat.finished_s for stat in stats), default=0.0) + draw(gaps) + 0.001
    info = pb.RunInfo(run="r-1", program="p", state="done", seconds=seconds, stats=stats)
    return pb.RunResult(info=info)


@settings(max_examples=150, deadline=None)
@given(results(), st.booleans())
def test_every_moment_of_a_run_is_blamed_on_one_thing(result: pb.RunResult, grows: bool) -> None:
    report = RunReport.of(result, grows=grows)
    assert sum(report.blame.values()) == pytest.approx(result.info.seconds * 1e3, abs=1e-6)
    assert report.critical <= {stat.node for stat in result.info.stats}
    finished = [step.task.finished_s for step in report.path]
    assert finished == sorted(finished)


class Page(HTMLParser):
    """The elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def check_page(text: str) -> None:
    """A page that asks the network for nothing, runs nothing of the data's, and can be read aloud."""
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert names[0] == "html"
    assert page.tags[0][1]["lang"] == "en"
    assert "title" in names
    assert {"link", "iframe", "img", "object"}.isdisjoint(names)
    assert all("src" not in attributes for _, attributes in page.tags)
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert 'onerror="alert' not in text
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert pictures
    assert all(p.get("aria-hidden") == "true" or p.get("aria-label") or p.get("role") for p in pictures)


def test_the_page_of_a_run_holds_any_name_harmlessly() -> None:
    stat = pb.NodeStat(
        node=1, label=f"%1 decode {EVIL!r}", worker=EVIL, kind="llm", finished_s=0.5, location=f"{EVIL}.py:1"
    )
    info = pb.RunInfo(run="r-1", program=EVIL, state="done", seconds=0.6, stats=[stat])
    report = RunReport.of(pb.RunResult(info=info))
    check_page(report.html())
    assert EVIL in str(report)


def explanation() -> Explanation:
    live = LiveGraph(Deployment({"m": ModelSpec("m", 4096)}, "m"))
    ask = Generate((Message("user", (EVIL, Slot("q"))),))
    nodes = (Node(0, Input("q")), Node(1, ask, {"q": Value(0)}, EVIL, f"{EVIL}.py:1"))
    live.extend(Graph(nodes, (Value(1),), EVIL), closed=True)
    passes = [
        pb.PassReport(
            name=step.name,
            summary=step.summary,
            graph=encode_graph(step.graph),
            text=draw.text(step.graph),
            mermaid=draw.mermaid(step.graph),
            refusals=[pb.PassNote(node=1, text=EVIL, rule="known together", location=EVIL)],
        )
        for step in live.reports
    ]
    last = live.reports[-1].graph
    predictions = [
        pb.Prediction(node=node.id, milliseconds=1, finish_ms=1, critical=True, objective="latency")
        for node in last
    ]
    return Explanation.of(pb.ExplainResponse(passes=passes, predictions=predictions))


def test_the_page_of_an_explanation_holds_any_name_harmlessly_and_names_the_rules() -> None:
    explained = explanation()
    page = explained.html()
    check_page(page)
    assert "known together" in page
    assert "known together" in str(explained)
    assert explained.json()["predictions"]


def test_a_plan_of_another_program_is_refused() -> None:
    info = pb.RunInfo(run="r-1", program="other", state="done", seconds=0.1)
    with pytest.raises(ValueError, match="the plan is of program"):
        RunReport.of(pb.RunResult(info=info), plan=explanation())
