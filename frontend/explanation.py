"""What the optimizer does to a program's graph, for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from weft.graph.codec import decode_graph
from weft.graph.ir import Graph
from weft.proto import orchestrator_pb2 as pb

__all__ = ["ExplainedPass", "Explanation", "Note", "Prediction"]


@dataclass(frozen=True)
class Note:
    """What a pass did to a node, or the rule by which it left it alone."""

    node: int
    text: str
    rule: str
    location: str  # file:line of the user's code

    def __str__(self) -> str:
        rule = f" [{self.rule}]" if self.rule else ""
        where = f"  # {self.location}" if self.location else ""
        return f"%{self.node} {self.text}{rule}{where}"


@dataclass(frozen=True)
class Prediction:
    """When a node of the optimized graph would run if no engine ever made it wait."""

    node: int
    start_ms: float
    finish_ms: float
    critical: bool
    """Whether it lies on the critical path."""
    depth: int  # nodes between it and the end
    objective: str  # latency, group or throughput


@dataclass(frozen=True)
class ExplainedPass:
    """A graph after one pass of the optimizer, or as its author wrote it."""

    name: str
    summary: str
    text: str
    mermaid: str
    graph: Graph
    changes: tuple[Note, ...] = ()
    refusals: tuple[Note, ...] = ()
    milliseconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"== {self.name}: {self.summary}"]
        lines += [f"   + {note}" for note in self.changes]
        lines += [f"   - {note}" for note in self.refusals]
        return "\n".join([*lines, self.text])


@dataclass(frozen=True)
class Explanation:
    """A graph as written and after each pass; as a string, all of them one after the other."""

    passes: tuple[ExplainedPass, ...]
    predictions: tuple[Prediction, ...] = ()

    def __str__(self) -> str:
        steps = "\n\n".join(map(str, self.passes))
        return f"{steps}\n\n{self._schedule()}" if self.predictions else steps

    def _schedule(self) -> str:
        """The predictions as a table, in the order of starting."""
        by_id = self.passes[-1].graph.by_id
        lines = ["== predicted, if no engine ever made it wait (* is the critical path)"]
        for found in sorted(self.predictions, key=lambda p: (p.start_ms, p.node)):
            node = by_id[found.node]
            label = f"%{node.id} {node.op.label()}" + (f" {node.name!r}" if node.name else "")
            mark = "*" if found.critical else " "
            span = f"{found.start_ms:9.1f} to {found.finish_ms:9.1f} ms"
            lines.append(f" {mark} {span}  {label}  ({found.objective})")
        return "\n".join(lines)

    @classmethod
    def of(cls, response: pb.ExplainResponse) -> Explanation:
        """The explanation that a server gave."""
        steps = tuple(
            ExplainedPass(
                step.name,
                step.summary,
                step.text,
                step.mermaid,
                decode_graph(step.graph),
                _notes(step.changes),
                _notes(step.refusals),
                step.milliseconds,
            )
            for step in response.passes
        )
        return cls(steps, tuple(map(_prediction, response.predictions)))


def _notes(notes: Iterable[pb.PassNote]) -> tuple[Note, ...]:
    return tuple(Note(note.node, note.text, note.rule, note.location) for note in notes)


def _prediction(found: pb.Prediction) -> Prediction:
    return Prediction(
        found.node, found.start_ms, found.finish_ms, found.critical, found.depth, found.objective
    )
