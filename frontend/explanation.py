"""What the optimizer does to a program's graph, for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from weft.graph.codec import decode_graph
from weft.graph.ir import Graph
from weft.proto import orchestrator_pb2 as pb

from .report.page import framed
from .report.units import milliseconds

__all__ = ["ExplainedPass", "Explanation", "Note", "Prediction"]

_NODE: Final = re.compile(r"%(\d+) = ")


@dataclass(frozen=True, slots=True)
class Note:
    """What a pass did to a node, or why it left it alone, and the rule that says so."""

    node: int
    text: str
    rule: str
    location: str  # file:line of the user's code

    def __str__(self) -> str:
        rule = f" [{self.rule}]" if self.rule else ""
        location = f" ({self.location})" if self.location else ""
        return f"%{self.node}: {self.text}{rule}{location}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """When a node of the final graph would run if no engine ever made it wait."""

    node: int
    milliseconds: float  # of the node alone
    start_ms: float
    finish_ms: float
    critical: bool  # it lies on the critical path
    depth: int  # nodes on the longest way to an output
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
    milliseconds: float = 0.0  # that the pass took

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        took = f" ({milliseconds(self.milliseconds)})" if self.milliseconds else ""
        yield f"== {self.name}: {self.summary}{took}"
        yield from (f"  changed   {note}" for note in self.changes)
        yield from (f"  left      {note}" for note in self.refusals)


@dataclass(frozen=True)
class Explanation:
    """A program's graph as written and after each pass, and what is predicted of the last.

    As a string: the graph as written; for each pass what it changed and what it left alone, and why; the
    final graph with the predicted start and finish of each node, an asterisk on the critical path, and the
    objectives.
    """

    passes: tuple[ExplainedPass, ...]
    predictions: Mapping[int, Prediction]
    """Of the final graph, by node; empty if the server makes none."""

    @classmethod
    def of(cls, response: pb.ExplainResponse) -> Explanation:
        """The explanation that a server gave."""
        predictions = (
            Prediction(p.node, p.milliseconds, p.start_ms, p.finish_ms, p.critical, p.depth, p.objective)
            for p in response.predictions
        )
        return cls(
            tuple(_pass_of(step) for step in response.passes),
            {prediction.node: prediction for prediction in predictions},
        )

    @property
    def program(self) -> str:
        """The name of the program."""
        return self.passes[0].graph.name

    @property
    def final(self) -> ExplainedPass:
        """The last pass."""
        return self.passes[-1]

    @property
    def milliseconds(self) -> float:
        """How long a run takes if all goes as predicted and no engine ever makes it wait."""
        return max((prediction.finish_ms for prediction in self.predictions.values()), default=0.0)

    @cached_property
    def makers(self) -> Mapping[int, tuple[int, ...]]:
        """For each node of the final graph, the nodes whose results it takes."""
        return {node.id: tuple(value.node for value in node.args.values()) for node in self.final.graph}

    def __str__(self) -> str:
        written, *passes = self.passes
        parts = [f"{written}\n{written.text}", *map(str, passes)]
        return "\n\n".join([*parts, "\n".join(self._final_lines())])

    def json(self) -> dict[str, Any]:
        """The explanation as JSON data."""
        return {
            "program": self.program,
            "passes": [_plain(step) for step in self.passes],
            "predictions": [asdict(prediction) for prediction in self.predictions.values()],
        }

    def mermaid(self) -> str:
        """Markdown with a mermaid flowchart for the graph as written and after each pass."""
        return "\n\n".join(
            f"## {step.name}\n\n{step.summary}\n\n```mermaid\n{step.mermaid}\n```" for step in self.passes
        )

    def html(self, path: str | Path | None = None) -> str:
        """One HTML page that needs no network; it is written to `path` if given. Raises OSError."""
        from .report.explanation_page import explanation_page  # only here: it takes explanations itself

        page = explanation_page(self)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def _repr_html_(self) -> str:
        return framed(self.html(), f"how {self.program} is optimized")

    def _final_lines(self) -> Iterator[str]:
        yield "== the final graph"
        if self.predictions:
            yield f"predicted: {milliseconds(self.milliseconds)} in all, if no engine ever makes a node wait"
            yield "    start    finish    objective"
        for line in self.final.text.splitlines():
            yield f"{self._predicted(line)}{line}"

    def _predicted(self, line: str) -> str:
        """What stands before a line of the graph's text."""
        if not self.predictions:
            return ""
        found = _NODE.match(line)
        prediction = self.predictions.get(int(found[1])) if found else None
        if prediction is None:
            return " " * 34
        start, finish = milliseconds(prediction.start_ms), milliseconds(prediction.finish_ms)
        mark = "*" if prediction.critical else " "
        return f"{start:>9} {finish:>9} {mark}  {prediction.objective:<10}  "


def _pass_of(step: pb.PassReport) -> ExplainedPass:
    return ExplainedPass(
        step.name,
        step.summary,
        step.text,
        step.mermaid,
        decode_graph(step.graph),
        tuple(Note(note.node, note.text, note.rule, note.location) for note in step.changes),
        tuple(Note(note.node, note.text, note.rule, note.location) for note in step.refusals),
        step.milliseconds,
    )


def _plain(step: ExplainedPass) -> dict[str, Any]:
    return {
        "name": step.name,
        "summary": step.summary,
        "milliseconds": step.milliseconds,
        "changes": [asdict(note) for note in step.changes],
        "refusals": [asdict(note) for note in step.refusals],
        "text": step.text,
        "mermaid": step.mermaid,
    }
