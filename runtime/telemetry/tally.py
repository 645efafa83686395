"""What runs have taken, added up from their records: what is counted costs a run nothing while it goes on."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Final

from weft.graph.ops.base import Op
from weft.graph.ops.common import Interrupt, Tool
from weft.runtime.orchestrator.counts import OTHER
from weft.runtime.orchestrator.record import OBSERVED, NodeTimes, RunRecord
from weft.runtime.orchestrator.trace import PHASES

__all__ = ["WAIT", "Histogram", "Requests", "Tally"]

WAIT: Final = "wait"
"""The phase in which a ready primitive waits for a worker with room."""

_PRIMITIVE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RUN_S: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_S: Final = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5)
_PROGRAMS: Final = 30  # that are told apart: their names come from clients
_PERSON: Final = "person"  # the kind of what waits for somebody's answer, which takes as long as it takes


class Histogram:
    """How many values lie at or below each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last: above all bounds
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Work:
    """What has been done of one kind with one model."""

    def __init__(self) -> None:
        self.attempts: Counter[str] = Counter()
        """By outcome."""
        self.seconds = Histogram(_PRIMITIVE_S)
        """From being ready to being done."""
        self.phases = defaultdict[str, Histogram](partial(Histogram, _PRIMITIVE_S))
        """The same in parts."""
        self.per_token = Histogram(_TOKEN_S)
        """Seconds a token that is written."""
        self.prompt_tokens = self.computed_tokens = self.fetched_tokens = self.generated_tokens = 0

    def take(self, times: NodeTimes) -> None:
        """Add a primitive that is done."""
        self.attempts["reused" if times.reused else "done"] += 1
        if times.reused:
            return
        phases, timing = self.phases, times.timing
        self.seconds.observe(max(times.finished_s - times.ready_s, 0.0))
        phases[WAIT].observe(max(times.attempt.at_s - times.ready_s, 0.0))
        for phase in PHASES:
            seconds = getattr(timing, phase)
            if seconds:
                phases[phase].observe(seconds)
        written = timing.generated_tokens
        if written:
            self.generated_tokens += written
            self.per_token.observe(timing.decode / written)
        self.prompt_tokens += timing.prompt_tokens
        self.computed_tokens += timing.computed_tokens
        self.fetched_tokens += timing.fetched_tokens


class Tally:
    """The sums over all runs, those that go on as far as they have been looked at."""

    def __init__(self) -> None:
        self.runs = defaultdict[tuple[str, str], Histogram](partial(Histogram, _RUN_S))
        """Seconds, by program and state at the end."""
        self.first_text = Histogram(_RUN_S)
        """Seconds until the first piece of a streamed text."""
        self.work = defaultdict[tuple[str, str], Work](Work)
        """By kind and model."""
        self._programs: set[str] = set()
        self._seen: dict[RunRecord, tuple[int, int]] = {}  # of runs that go on

    def look(self, record: RunRecord) -> None:
        """Take in what a run has done since it was looked at last."""
        done, unfinished = self._seen.get(record, (0, 0))
        for times in islice(record.times.values(), done, None):
            op = times.node.op
            if op.kind in OBSERVED:
                self.work[_labels_of(op)].take(times)
        for attempt, _, outcome, _ in islice(record.unfinished, unfinished, None):
            self.work[_labels_of(attempt.node.op)].attempts[outcome] += 1
        self._seen[record] = len(record.times), len(record.unfinished)

    def over(self, record: RunRecord) -> None:
        """Take in the rest of a run that has ended."""
        self.look(record)
        del self._seen[record]
        self.runs[self._program(record.program), record.state].observe(record.seconds)
        if record.first_text_s is not None:
            self.first_text.observe(record.first_text_s)

    def _program(self, name: str) -> str:
        if name not in self._programs:
            if len(self._programs) >= _PROGRAMS:
                return OTHER
            self._programs.add(name)
        return name


class Requests:
    """The requests that an HTTP server has answered."""

    def __init__(self) -> None:
        self.count: Counter[tuple[str, str]] = Counter()
        """By route and status."""
        self.seconds = defaultdict[str, Histogram](partial(Histogram, _RUN_S))
        """Until the end of the answer, by route."""

    def note(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.count[route, str(status)] += 1
        self.seconds[route].observe(seconds)


def _labels_of(op: Op) -> tuple[str, str]:
    """The kind of an operation, and its model or, of a tool of the server, the tool.

    No text that clients make up is among them: the models and tools that a run names are those of the server.
    """
    match op:
        case Interrupt():
            return _PERSON, ""
        case Tool(tool=tool, where=where):
            return op.kind, tool if where == "server" else ""
        case _:
            return op.kind, getattr(op, "model", "")
