"""From requests to graphs that can run: programs are read and optimized once, and then found again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

from weft.graph.errors import GraphError
from weft.graph.ir import Graph
from weft.graph.live import LiveGraph
from weft.graph.observed import Observed
from weft.graph.plan import Plan, Plans
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.config import Settings
from weft.runtime.scheduler.primitive import Primitive

from .door import invalid, program_text, read_graph
from .fleet import Fleet
from .foresight import of_plan

__all__ = ["Compiler"]

Source = pb.SubmitRequest | pb.ExplainRequest


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
        self._plans = Plans()
        self._primitives: WeakKeyDictionary[Plan, tuple[Primitive, ...]] = WeakKeyDictionary()
        self.live_graph()  # so that what is wrong with the settings is known before any run

    def live_graph(self) -> LiveGraph:
        """An empty graph for what the workers offer now."""
        return LiveGraph(self._fleet.profile, disabled=self._settings.passes_off, observed=self.observed)

    def read(self, request: Source) -> Graph:
        """The graph of a request as its author wrote it. Raises DoorError."""
        return read_graph(request, self._settings.programs, self._max_characters)

    def plan(self, request: Source, check: Callable[[Graph], None]) -> Plan:
        """The optimized program of a request, if it passes the `check`. Raises DoorError."""
        key = self._key(request)
        plan = self._plans.get(key, self._fleet.profile, self.observed.epoch)
        if plan is not None:
            check(plan.source)
            return plan
        return self._plans.add(key, self.compile(request, check))

    def compile(self, request: Source, check: Callable[[Graph], None]) -> Plan:
        """The same for a program that will not come again. Raises DoorError."""
        graph = self.read(request)
        check(graph)
        try:
            return Plan.compile(
                graph, self._fleet.profile, disabled=self._settings.passes_off, observed=self.observed
            )
        except GraphError as problem:
            raise invalid(str(problem)) from None

    def primitives(self, plan: Plan) -> tuple[Primitive, ...]:
        """The primitives that every run of a plan begins with."""
        found = self._primitives.get(plan)
        if found is None:
            found = self._primitives[plan] = of_plan(plan)
        return found

    def _key(self, request: Source) -> Hashable:
        """The whole source, so that equal keys mean equal programs."""
        match request.WhichOneof("source"):
            case "graph":
                return request.graph.SerializeToString(deterministic=True)
            case "program":
                return request.program, program_text(request.program, self._settings.programs)
            case _:
                return request.graph_json
