"""Runs that an earlier server has left: each goes on as soon as the workers are there that it needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from google.protobuf.message import DecodeError

from weft.proto import orchestrator_pb2 as pb
from weft.runtime.config import Settings
from weft.runtime.layout import expected_engines
from weft.runtime.scheduler.faults import Fault

from .compiler import Compiler
from .door import DoorError
from .faults import fault_of, past_deadline
from .fleet import Fleet
from .journal_store import LastingRun
from .record import RunRecord, State
from .timer import now

__all__ = ["Resumption"]


class Owner(Protocol):
    """Who is responsible for the runs."""

    def go_on(self, record: RunRecord, request: pb.SubmitRequest, left: LastingRun) -> None:
        """Begin a run with what is left of it. Raises DoorError, and nothing has happened then."""
        ...

    def give_up(self, record: RunRecord, state: State, fault: Fault) -> None:
        """A run has ended without having gone on."""
        ...


@dataclass(eq=False)
class _Waiting:
    left: LastingRun
    request: pb.SubmitRequest
    record: RunRecord
    deadline: asyncio.TimerHandle | None = None


class Resumption:
    """The runs that cannot go on yet.

    None is tried before all workers have joined that the settings speak of, so that it is compiled as it was
    before. What it needs besides may come within `grace_s` after that.
    """

    def __init__(
        self, owner: Owner, settings: Settings, fleet: Fleet, compiler: Compiler, grace_s: float
    ) -> None:
        self._owner = owner
        self._fleet = fleet
        self._compiler = compiler
        self._grace_s = grace_s
        self._expected = expected_engines(settings)
        self._waiting: dict[str, _Waiting] = {}
        self._patience: asyncio.TimerHandle | None = None  # since the expected workers are there

    @property
    def waiting(self) -> int:
        """How many runs cannot go on yet."""
        return len(self._waiting)

    def take_up(self, runs: Iterable[LastingRun]) -> list[RunRecord]:
        """Let runs wait; their records. What cannot even be read has failed."""
        return [self._take_up(left) for left in runs]

    def _take_up(self, left: LastingRun) -> RunRecord:
        before_s = max(0.0, time.time() - left.started_unix_s)  # unless the clock was set back
        record = RunRecord(left.run, "", now() - before_s, left.started_unix_s, lasting=True)
        try:
            request = pb.SubmitRequest.FromString(left.request)
            record.namespace = request.namespace
            record.program = self._compiler.read(request).name
        except (DecodeError, DoorError) as problem:
            fault = Fault("invalid", f"what the journal has of it cannot be read: {problem}")
            self._fail(record, fault)
            return record
        record.emit(pb.RunEvent(started=record.info(now())), now())
        waiting = self._waiting[left.run] = _Waiting(left, request, record)
        if request.deadline_s:
            loop = asyncio.get_running_loop()
            rest_s = max(0.0, request.deadline_s - before_s)
            waiting.deadline = loop.call_later(rest_s, self._too_late, waiting)
        return record

    def workers_changed(self) -> None:
        """Try again: a worker has joined."""
        if not self._waiting or not all(self._fleet.offers(*engine) for engine in self._expected):
            return
        self._try_all()
        if self._waiting and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(self._grace_s, self._give_up)

    def cancel(self, run_id: str, fault: Fault) -> None:
        """Cancel a run if it waits."""
        waiting = self._leave(run_id)
        if waiting is not None:
            self._owner.give_up(waiting.record, "cancelled", fault)

    def close(self) -> list[RunRecord]:
        """No run waits any longer; the records of those that did."""
        if self._patience is not None:
            self._patience.cancel()
        return [waiting.record for run_id in list(self._waiting) if (waiting := self._leave(run_id))]

    def _try_all(self) -> dict[str, Fault]:
        """Let all go on that can; why others cannot, by run."""
        problems = {}
        for run_id, waiting in list(self._waiting.items()):
            try:
                self._owner.go_on(waiting.record, waiting.request, waiting.left)
            except DoorError as problem:
                problems[run_id] = problem.fault
                continue
            except Exception as problem:  # which must not keep others from going on
                self._owner.give_up(waiting.record, "failed", fault_of(problem, f"run {run_id}"))
            self._leave(run_id)
        return problems

    def _give_up(self) -> None:
        for run_id, problem in self._try_all().items():
            waiting = self._leave(run_id)
            if waiting is not None:
                self._fail(waiting.record, problem)

    def _too_late(self, waiting: _Waiting) -> None:
        self._leave(waiting.left.run)
        self._owner.give_up(waiting.record, "failed", past_deadline(waiting.request.deadline_s))

    def _leave(self, run_id: str) -> _Waiting | None:
        waiting = self._waiting.pop(run_id, None)
        if waiting is not None and waiting.deadline is not None:
            waiting.deadline.cancel()
        return waiting

    def _fail(self, record: RunRecord, why: Fault) -> None:
        message = f"the run cannot go on since the server was started again: {why.message}"
        self._owner.give_up(record, "failed", replace(why, message=message))
