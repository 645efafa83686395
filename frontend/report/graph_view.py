"""The parts of pages that show graphs: a drawing, the text form, and the graphs inside of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from weft.graph import draw
from weft.graph.ir import Graph

from .diagram import Diagram, bodies, of_graph
from .drawing import MOST_BOXES, drawing
from .markup import Child, Markup, join, tag
from .page import code, details, figure, label, legend

if TYPE_CHECKING:
    from weft.frontend.explanation import Prediction

__all__ = ["diagram_view", "graph_view"]

_KINDS: Final = {
    "llm": "language model",
    "embed": "embedder",
    "index": "index",
    "rerank": "reranker",
    "tool": "tool",
    "host": "orchestrator",
    "control": "opens while the run goes on",
}
"""Who runs a node, in words."""


def diagram_view(diagram: Diagram, name: str, *caption: Child) -> Markup:
    """A drawing, or the critical path of it if it is too large."""
    if not diagram.boxes:
        return tag("p", "There are no nodes.")
    if len(diagram.boxes) <= MOST_BOXES:
        return join(_kinds(diagram), figure(drawing(diagram, name), name, *caption))
    note = tag(
        "p",
        f"{len(diagram.boxes)} nodes are too many to draw, so this is the critical path alone; "
        "the tables have all of them.",
    )
    path = diagram.only_critical()
    return join(note, figure(drawing(path, name), name, *caption) if path.boxes else "")


def _kinds(diagram: Diagram) -> Markup:
    """What the stripes of the boxes say."""
    present = {box.kind for box in diagram.boxes}
    return legend((kind, words) for kind, words in _KINDS.items() if kind in present)


def graph_view(graph: Graph, name: str, predictions: Mapping[int, Prediction] | None = None) -> Markup:
    """A graph drawn and as text, with the graphs inside its nodes below."""
    inner = [
        details(["Drawing: ", label(title)], diagram_view(of_graph(body), title))
        for title, body in bodies(graph)
    ]
    return join(
        diagram_view(of_graph(graph, predictions), name),
        inner,
        details("As text", code(draw.text(graph), f"{name}, as text")),
    )
