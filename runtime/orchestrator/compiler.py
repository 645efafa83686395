"""From requests to graphs that can run: programs are read and optimized once, and then found again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from weft.graph.deployment import Deployment, every_node
from weft.graph.errors import GraphError
from weft.graph.ir import Graph
from weft.graph.live import LiveGraph
from weft.graph.observed import Observed
from weft.graph.ops.common import Tool
from weft.graph.ops.user import Ingest
from weft.graph.plan import Plan, Plans
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.config import Settings
from weft.runtime.scheduler.primitive import Primitive

from .door import check_names, invalid, program_text, read_graph
from .fleet import Fleet
from .foresight import of_plan

__all__ = ["Compiled", "Compiler", "filled_indexes"]

Source = pb.SubmitRequest | pb.ExplainRequest


class _Key(NamedTuple):
    """The whole source, so that equal keys mean equal programs."""

    program: str  # its name, if it is registered
    source: bytes | str


@dataclass(eq=False)
class Compiled:
    """A program that runs can be made of."""

    plan: Plan
    indexes: frozenset[str]
    """Those that it fills."""
    checked: tuple[Deployment, frozenset[str] | None]
    """For what workers offered, and for which tools of clients, its names were last found to be there."""

    @cached_property
    def primitives(self) -> tuple[Primitive, ...]:
        """Those that every run begins with."""
        return of_plan(self.plan)


class Compiler:
    """Reads and optimizes programs for what the workers offer and have been seen to take.

    Raises ValueError when the settings switch off a pass that cannot be.
    """

    def __init__(self, settings: Settings, fleet: Fleet, max_characters: int) -> None:
        self.observed = Observed()
        """What primitives of earlier runs took."""
        self._settings = settings
        self._fleet = fleet
        self._max_characters = max_characters
        self._programs: Plans[Compiled] = Plans()
        self.live_graph()  # so that what is wrong with the settings is known before any run

    def live_graph(self) -> LiveGraph:
        """An empty graph for what the workers offer now."""
        return LiveGraph(self._fleet.profile, disabled=self._settings.passes_off, observed=self.observed)

    def read(self, request: Source) -> Graph:
        """The graph of a request as its author wrote it. Raises DoorError."""
        return read_graph(request, self._settings.programs, self._max_characters)

    def program(self, request: Source, client_tools: frozenset[str] | None) -> Compiled:
        """The optimized program of a request. Raises DoorError, also if it names what is not there.

        `client_tools`: the tools that the client answers for; None: whichever the program calls.
        """
        key = self._key(request)
        known = self._programs.get(key, self._fleet.profile, self.observed.epoch)
        if known is None:
            return self._programs.add(key, self.compile(request, client_tools), len(key.source))
        checked = (self._fleet.deployment, client_tools)
        if known.checked[0] is not checked[0] or known.checked[1] != client_tools:
            self._check(known.plan.source, client_tools)
            known.checked = checked
        return known

    def compile(self, request: Source, client_tools: frozenset[str] | None) -> Compiled:
        """The same for a program that will not come again."""
        graph = self.read(request)
        self._check(graph, client_tools)
        try:
            plan = Plan.compile(
                graph, self._fleet.profile, disabled=self._settings.passes_off, observed=self.observed
            )
        except GraphError as problem:
            raise invalid(str(problem)) from None
        return Compiled(plan, filled_indexes(graph), (self._fleet.deployment, client_tools))

    def _check(self, graph: Graph, client_tools: frozenset[str] | None) -> None:
        if client_tools is None:
            client_tools = frozenset(n.op.tool for n in every_node(graph) if isinstance(n.op, Tool))
        check_names(graph, self._fleet, client_tools, ())

    def _key(self, request: Source) -> _Key:
        match request.WhichOneof("source"):
            case "graph":
                return _Key("", request.graph.SerializeToString(deterministic=True))
            case "program":
                return _Key(request.program, program_text(request.program, self._settings.programs))
            case _:
                return _Key("", request.graph_json)


def filled_indexes(graph: Graph) -> frozenset[str]:
    """The indexes that a graph ingests into."""
    return frozenset(node.op.index for node in every_node(graph) if isinstance(node.op, Ingest))
