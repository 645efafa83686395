"""Graphs reduced to what a drawing shows: boxes, and arrows between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from weft.graph.ir import Graph, Node

from .tasks import Task
from .units import brief_location, milliseconds

if TYPE_CHECKING:
    from weft.frontend.explanation import Prediction

    from .run_report import RunReport

__all__ = ["Box", "Diagram", "bodies", "of_graph", "of_tasks"]

_NAMING: Final = ("name", "index", "tool", "key", "path", "work", "value")
"""Attributes of operations that tell one node from another."""


Edge = tuple[int, int]
"""From a node, to a node."""


@dataclass(frozen=True, slots=True)
class Box:
    """A node as it is drawn."""

    id: int
    title: str
    detail: str
    kind: str  # of engine
    critical: bool = False


@dataclass(frozen=True)
class Diagram:
    """Boxes in topological order, and the arrows between them."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    path: frozenset[Edge] = frozenset()
    """The edges on the critical path."""

    def only_critical(self) -> Diagram:
        """The critical path alone."""
        edges = tuple(edge for edge in self.edges if edge in self.path)
        return Diagram(tuple(box for box in self.boxes if box.critical), edges, self.path)

    def mermaid(self) -> str:
        """The diagram as a mermaid flowchart."""
        return "\n".join(["flowchart TD", *self._mermaid_lines()])

    def _mermaid_lines(self) -> Iterator[str]:
        for box in self.boxes:
            label = _escaped(f"{box.title}: {box.detail}" if box.detail else box.title)
            yield f'  n{box.id}["{label}"]{":::critical" if box.critical else ""}'
        yield from (f"  n{source} --> n{target}" for source, target in self.edges)
        yield "  classDef critical stroke-width:4px"


def of_graph(graph: Graph, predictions: Mapping[int, Prediction] | None = None) -> Diagram:
    """A graph, with predicted times if there are any. What it takes from outside is not drawn."""
    known = predictions or {}
    boxes = tuple(_box(node, known.get(node.id)) for node in graph)
    edges = {(value.node, node.id): None for node in graph for value in node.args.values()}
    path = pairwise(box.id for box in boxes if box.critical)
    return Diagram(boxes, tuple(edge for edge in edges if edge[0] in graph.by_id), frozenset(path))


def of_tasks(report: RunReport) -> Diagram:
    """The primitives that ran, with the times that were measured.

    An arrow leads from each operand, and from what a step of the critical path became ready by.
    """
    tasks = report.tasks
    path = {(step.cause.task.node, step.task.node): None for step in report.path if step.cause}
    taken = {(one, task.node): None for task in tasks.values() for one in task.operands if one in tasks}
    edges = tuple(path | taken)
    order: TopologicalSorter[int] = TopologicalSorter(dict.fromkeys(tasks, ()))
    for source, target in edges:
        order.add(target, source)
    boxes = (_task_box(tasks[number], number in report.critical) for number in order.static_order())
    return Diagram(tuple(boxes), edges, frozenset(path))


def bodies(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """The graphs inside its nodes and inside those, and what each is."""
    for node in graph:
        for field in fields(node.op):
            body = getattr(node.op, field.name)
            if isinstance(body, Graph):
                title = f"{field.name} of {node.label()} {brief_location(node.location)}".rstrip()
                yield title, body
                yield from ((f"{inner}, in {title}", graph) for inner, graph in bodies(body))


def _box(node: Node, prediction: Prediction | None) -> Box:
    title = node.label()
    detail = _subject(node)
    if prediction is not None:
        detail = f"{milliseconds(prediction.start_ms)} to {milliseconds(prediction.finish_ms)}"
        title = title if node.name else f"{title} {_subject(node)}".rstrip()
    return Box(node.id, title, detail, node.op.kind, prediction is not None and prediction.critical)


def _task_box(task: Task, critical: bool) -> Box:
    detail = f"{milliseconds(task.work_ms)} on {task.worker}"
    return Box(task.node, task.label, detail, task.kind, critical)


def _subject(node: Node) -> str:
    """What the node works on, where its operation says so."""
    found = (getattr(node.op, name, "") for name in _NAMING)
    return " ".join(_shown(value) for value in found if value != "")


def _shown(value: object) -> str:
    return ".".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _escaped(label: str) -> str:
    """The label with everything that mermaid could take for syntax as character codes."""
    return "".join(char if char.isalnum() or char in " _-.," else f"#{ord(char)};" for char in label)
