"""`Run`: a run that goes on while its program's caller does something else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic_core import to_json
from typing_extensions import TypeIs  # in typing from Python 3.13

from weft.frontend.errors import ProgramError, RunCancelled, TraceError
from weft.frontend.location import located
from weft.frontend.report import RunReport
from weft.proto import orchestrator_pb2 as pb

from .events import Event, Interrupted, RunFinished, RunState, TextAdded
from .portal import NETWORK
from .session import WatchSession

if TYPE_CHECKING:
    from weft.frontend.explanation import Explanation
    from weft.proto.orchestrator_pb2_grpc import OrchestratorAsyncStub

__all__ = ["Run", "rest_of", "result_text"]

R = TypeVar("R")


class Run(Generic[R]):
    """A run of a program. Methods may be called from any thread, async ones on any event loop."""

    def __init__(
        self, session: WatchSession, outcome: Future[R], *, home: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """`home`: the caller's loop that the program runs on."""
        self._session = session
        self._outcome = outcome
        self._home = home

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.status}>"

    @property
    def id(self) -> str:
        """What the server calls the run."""
        return self._session.run

    @property
    def status(self) -> RunState:
        """running, waiting (for a person), done, failed or cancelled."""
        journal = self._session.journal
        return "waiting" if journal.state == "running" and journal.interrupts else journal.state

    def result(self, timeout: float | None = None) -> R:
        """What the program returns. Raises ProgramError, and TimeoutError after `timeout` seconds.

        Ctrl-C while it waits cancels the run.
        """
        self._expect_to_wait("aresult()")
        try:
            return self._outcome.result(timeout)
        except CancelledError:
            raise self._abandoned() from None
        except KeyboardInterrupt:
            self._abandon()
            raise

    async def aresult(self) -> R:
        """As `result`, on any event loop; the run goes on if the waiting is cancelled."""
        try:
            return await asyncio.shield(asyncio.wrap_future(self._outcome))
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            if self._outcome.cancelled() and not (waiting and waiting.cancelling()):
                raise self._abandoned() from None
            raise

    def interrupts(self) -> list[Interrupted]:
        """What the run has asked people by `interrupt`, and has no answer to yet."""
        return NETWORK.call(self._interrupts)

    def resume(self, value: Any, *, node: int | None = None) -> None:
        """Answer what the run has asked; it goes on then.

        Args:
            value: The answer, of the type that `interrupt` names.
            node: Which question, if the run has asked several.

        Raises Rejected for an answer of another type, and if nothing was asked; the run waits on then.
        """
        NETWORK.call(self._resume, to_json(value).decode(), node)

    async def aresume(self, value: Any, *, node: int | None = None) -> None:
        """As `resume`."""
        await asyncio.wrap_future(NETWORK.start(self._resume, to_json(value).decode(), node))

    def cancel(self) -> None:
        """Cancel the run; returns when the server has freed what it held. Nothing happens if it is over."""
        NETWORK.call(self._cancel)

    async def acancel(self) -> None:
        """As `cancel`."""
        await asyncio.wrap_future(NETWORK.start(self._cancel))

    def events(self) -> Iterator[Event[R]]:
        """What happens in the run, from its beginning to its end; the last one has the result, or says what
        went wrong.

        Of a run that is streamed, it has the texts that it returns or that have a name, and what tools are
        given and give.
        """
        self._expect_to_wait("aevents()")
        position = 0
        while events := NETWORK.call(self._session.journal.since, position):
            position += len(events)
            for event in events:
                yield replace(event, result=self.result()) if _is_done(event) else event

    async def aevents(self) -> AsyncIterator[Event[R]]:
        """As `events`, on any event loop."""
        async for event in self._session.events():
            yield replace(event, result=await self.aresult()) if _is_done(event) else event

    def pieces(self) -> Iterator[R | str]:
        """The pieces of the result as a model writes them, if it is such a text and the run is streamed.

        Otherwise the result, when it is there. Raises ProgramError. Ctrl-C while it waits cancels the run.
        """
        streamed = ""
        try:
            for event in self.events():
                if text := result_text(event):
                    streamed += text
                    yield text
        except KeyboardInterrupt:
            self._abandon()
            raise
        yield from rest_of(self.result(), streamed)

    def trace(self) -> dict[str, Any]:
        """The run in the Chrome/Perfetto trace format."""
        request = pb.TraceRequest(run=self.id)
        response = NETWORK.call(self._session.connection.call, lambda stub: stub.Trace(request))
        trace: dict[str, Any] = json.loads(response.json)
        return trace

    def explain(self, plan: Explanation | None = None) -> RunReport:
        """Where the time of the run went; waits until it is over, however it ends.

        Args:
            plan: What `explain()` of the program returns, for the report to show as well.

        Raises ProgramError if the server cannot be asked, and ValueError if the plan is of another program.
        """
        result, grows = NETWORK.call(self._session.connection.call, self._ending)
        return RunReport.of(result, grows=grows, plan=plan)

    async def _interrupts(self) -> list[Interrupted]:
        return self._session.journal.interrupts

    async def _resume(self, value: str, node: int | None) -> None:
        request = pb.ResumeRequest(run=self.id, node=node, value=value)
        await self._session.connection.call(lambda stub: stub.Resume(request))

    async def _cancel(self) -> None:
        if not self._session.journal.over:
            await self._session.cancel()
            await asyncio.wait((self._session.journal.outputs,))  # until this process knows of the end, too

    def _expect_to_wait(self, instead: str) -> None:
        """Raises TraceError on the loop that the program runs on, which waiting would stop."""
        here = None
        with suppress(RuntimeError):
            here = asyncio.get_running_loop()
        if here is not None and here is self._home:
            raise TraceError(located(f"the run goes on on this event loop: wait for it by `{instead}`"))

    async def _ending(self, stub: OrchestratorAsyncStub) -> tuple[pb.RunResult, bool]:
        """How the run ended, and whether its program waited for values on the way."""
        grows = False
        async for message in stub.Watch(pb.WatchRequest(run=self.id)):
            for event in message.events:
                grows = grows or event.HasField("known")
                if event.HasField("finished"):
                    return event.finished, grows
        raise ProgramError("the server closed the stream of the run before its end")

    def _abandoned(self) -> RunCancelled:
        """The error of a run whose program was stopped here."""
        program = self._session.journal.program
        return RunCancelled("the run was abandoned", code="cancelled", program=program)

    def _abandon(self) -> None:
        self._session.abandon()
        self._outcome.cancel()


def _is_done(event: Event[Any]) -> TypeIs[RunFinished[Any]]:
    return isinstance(event, RunFinished) and event.state == "done"


def result_text(event: Event[Any]) -> str:
    """The piece of the result that an event brings; empty if there is none.

    Raises ProgramError if the pieces before it do not count.
    """
    if not isinstance(event, TextAdded) or not event.result:
        return ""
    if event.again:
        message = "a worker was lost, and another one did not write again what had been streamed"
        raise ProgramError(f"{message}; run the program again", code="worker_lost")
    return event.text


def rest_of(result: R, streamed: str) -> Iterator[R | str]:
    """What is left of a result when some text of it has been streamed: all of it if there was none."""
    if not streamed:
        yield result
    elif isinstance(result, str) and result.startswith(streamed) and result != streamed:
        yield result[len(streamed) :]
