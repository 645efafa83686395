"""Diagrams as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from .diagram import Box, Diagram
from .layered import Edge, Layout, layout
from .markup import Markup, tag

__all__ = ["MOST_BOXES", "drawing"]

MOST_BOXES: Final = 400
"""Of larger graphs only the critical path is drawn."""

_WIDTH: Final = 184.0  # of a box, in px
_HEIGHT: Final = 42.0
_ACROSS: Final = 204.0  # from the middle of a box to that of the next
_DOWN: Final = 76.0
_MARGIN: Final = 8.0
_TITLE: Final = 24  # characters that fit in a box
_DETAIL: Final = 24


def drawing(diagram: Diagram, title: str) -> Markup:
    """The diagram, drawn from top to bottom; `title` says what it is to those who do not see it."""
    plan = layout([box.id for box in diagram.boxes], diagram.edges)
    canvas = _Canvas(plan)
    edges = sorted(diagram.edges, key=diagram.path.__contains__)  # the critical path on top
    return tag(
        "svg",
        [canvas.edge(edge, critical=edge in diagram.path) for edge in edges],
        [canvas.box(box) for box in diagram.boxes],
        xmlns="http://www.w3.org/2000/svg",
        class_="graph",
        role="img",
        aria_label=f"{title}. The table of nodes says the same in words.",
        viewBox=f"0 0 {canvas.width:g} {canvas.height:g}",
        width=canvas.width,
        height=canvas.height,
    )


@dataclass(frozen=True, slots=True)
class _Canvas:
    """Draws by a layout; all in px."""

    plan: Layout

    @property
    def width(self) -> float:
        return round(self.plan.width * _ACROSS + _WIDTH + 2 * _MARGIN)

    @property
    def height(self) -> float:
        return (self.plan.layers - 1) * _DOWN + _HEIGHT + 2 * _MARGIN

    def box(self, box: Box) -> Markup:
        left = self._x(self.plan.x[box.id]) - _WIDTH / 2
        top = self._y(self.plan.layer[box.id]) - _HEIGHT / 2
        return tag(
            "g",
            tag("title", f"{box.title}: {box.detail}" if box.detail else box.title),
            tag("rect", x=left, y=top, width=_WIDTH, height=_HEIGHT, rx=4),
            tag("rect", x=left + 1, y=top + 1, width=5, height=_HEIGHT - 2, class_=f"kind {_word(box.kind)}"),
            tag("text", _clipped(box.title, _TITLE), x=left + 12, y=top + 17, class_="name"),
            tag("text", _clipped(box.detail, _DETAIL), x=left + 12, y=top + 33, class_="detail"),
            class_="box critical" if box.critical else "box",
        )

    def edge(self, edge: Edge, *, critical: bool) -> Markup:
        source, target = edge
        plan = self.plan
        top = plan.layer[source]
        places = [plan.x[source], *plan.bends[edge], plan.x[target]]
        points = [(self._x(place), self._y(top + number)) for number, place in enumerate(places)]
        line = " ".join(_curves(points))
        return tag("path", d=line, class_="edge critical" if critical else "edge")

    def _x(self, place: float) -> float:
        return place * _ACROSS + _WIDTH / 2 + _MARGIN

    def _y(self, layer: int) -> float:
        return layer * _DOWN + _HEIGHT / 2 + _MARGIN


def _curves(points: Sequence[tuple[float, float]]) -> Iterator[str]:
    """From the lower side of the first box to the upper side of the last; straight across layers between."""
    half = _HEIGHT / 2
    yield f"M{points[0][0]:.1f} {points[0][1] + half:g}"
    for (x1, y1), (x2, y2) in pairwise(points):
        begin, end = y1 + half, y2 - half
        middle = (begin + end) / 2
        yield f"C{x1:.1f} {middle:g} {x2:.1f} {middle:g} {x2:.1f} {end:g}"
        if (x2, y2) != points[-1]:
            yield f"V{y2 + half:g}"


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _word(kind: str) -> str:
    """The kind as the name of a class."""
    return kind if kind.isalpha() else "host"
