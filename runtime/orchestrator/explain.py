"""What the optimizer did with a program, and when each of its primitives is expected to run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from weft.graph import draw
from weft.graph.analyses.depth import critical_path, depth
from weft.graph.analyses.objectives import objectives
from weft.graph.analyses.times import finish_ms
from weft.graph.codec import encode_graph
from weft.graph.ir import Graph
from weft.graph.live import LiveGraph
from weft.graph.passes.base import Note, PassReport
from weft.proto import orchestrator_pb2 as pb

__all__ = ["explained"]


def explained(live: LiveGraph) -> pb.ExplainResponse:
    """The graph as written and after each pass, with predictions for the last."""
    return pb.ExplainResponse(
        passes=[_encode(report) for report in live.reports],
        predictions=_predictions(live.reports[-1].graph, live),
    )


def _encode(report: PassReport) -> pb.PassReport:
    return pb.PassReport(
        name=report.name,
        summary=report.summary,
        graph=encode_graph(report.graph),
        text=draw.text(report.graph),
        mermaid=draw.mermaid(report.graph),
        changes=_notes(report.changes),
        refusals=_notes(report.refusals),
        milliseconds=report.milliseconds,
    )


def _notes(notes: Iterable[Note]) -> list[pb.PassNote]:
    return [pb.PassNote(node=n.node, text=n.text, rule=n.rule, location=n.location) for n in notes]


def _predictions(graph: Graph, live: LiveGraph) -> Iterator[pb.Prediction]:
    duration = live.estimator.duration_ms
    times = finish_ms(graph, duration)
    depths = depth(graph)
    critical = set(critical_path(graph, duration))
    wanted = objectives(graph, dict.fromkeys(graph.outputs, "latency"))
    for node in graph:
        start, finish = times[node.id]
        yield pb.Prediction(
            node=node.id,
            milliseconds=duration(node),
            start_ms=start,
            finish_ms=finish,
            critical=node.id in critical,
            depth=depths[node.id],
            objective=wanted[node.id].kind,
        )
