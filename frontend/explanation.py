"""What the optimizer does to a program's graph, for people."""

from __future__ import annotations

from dataclasses import dataclass

from weft.graph.codec import decode_graph
from weft.graph.ir import Graph
from weft.proto import orchestrator_pb2 as pb

__all__ = ["ExplainedPass", "Explanation"]


@dataclass(frozen=True)
class ExplainedPass:
    """A graph after one pass of the optimizer, or as its author wrote it."""

    name: str
    summary: str
    text: str
    mermaid: str
    graph: Graph


@dataclass(frozen=True)
class Explanation:
    """A graph as written and after each pass; as a string, all of them one after the other."""

    passes: tuple[ExplainedPass, ...]

    def __str__(self) -> str:
        return "\n\n".join(f"== {step.name}: {step.summary}\n{step.text}" for step in self.passes)

    @classmethod
    def of(cls, response: pb.ExplainResponse) -> Explanation:
        """The explanation that a server gave."""
        return cls(
            tuple(
                ExplainedPass(step.name, step.summary, step.text, step.mermaid, decode_graph(step.graph))
                for step in response.passes
            )
        )
