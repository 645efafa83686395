"""`Program`: what can be done with a program, whichever way it is written."""

from __future__ import annotations

import asyncio
import copy
import functools
import secrets
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Generic, Literal, ParamSpec, Self, TypeVar, overload

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph
from weft.proto import orchestrator_pb2 as pb

from .batches import as_completed
from .client import Client, Event, Run, RunFinished, default_client
from .client.portal import PROGRAMS, shared
from .client.run import rest_of, result_text
from .client.session import Session, Submission
from .dynamic import LiveTrace
from .errors import ArgumentError, TraceError
from .explanation import Explanation
from .jobs import Job, Options, StaticJob
from .location import located
from .signature import Signature
from .trace import Trace, tracing, untraced
from .waiting import expect_no_loop, iterate, wait

__all__ = ["Program"]

P = ParamSpec("P")
R = TypeVar("R")

Call = Mapping[str, Any] | Sequence[Any]
"""The arguments of one call of a batch: by name, or by position."""

_RESERVED: Final = frozenset({"detached", "stream"})
"""What `submit` takes besides a program's arguments."""


class Program(ABC, Generic[P, R]):
    """A function whose model calls, searches and tools run as one graph on a weft server.

    Calling it runs it and returns its result; within another program, it becomes part of that one.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        functools.update_wrapper(self, fn)
        self.name: str = fn.__name__
        self._fn = fn
        self._signature = Signature(fn, f"program {fn.__name__!r}")
        self._client: Client | None = None
        self._options = Options()
        for name in sorted(_RESERVED.intersection(self._signature.names)):
            raise TraceError(
                located(f"a program's parameter cannot be called {name!r}, which submit() takes")
            )

    def __repr__(self) -> str:
        return f"<program {self.name!r}>"

    @property
    def parameters(self) -> Mapping[str, str]:
        """The JSON Schema of each parameter's argument."""
        return {name: kind.schema("validation") for name, kind in self._signature.types.items()}

    def using(
        self,
        client: Client | None = None,
        *,
        timeout: float | None = None,
        namespace: str | None = None,
        priority: int | None = None,
    ) -> Self:
        """The same program with another client, or with other options for its runs.

        Args:
            client: The server to use in place of the default one.
            timeout: Seconds that a run may take.
            namespace: Runs of different namespaces never share what models have read.
            priority: Runs of higher priority go first; 0 is normal.
        """
        other = copy.copy(self)
        other._client = client or self._client
        other._options = Options(
            self._options.deadline_s if timeout is None else timeout,
            self._options.namespace if namespace is None else namespace,
            self._options.priority if priority is None else priority,
        )
        return other

    # ---- calls

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the program and return its result; within another program, make it part of that one."""
        trace = tracing()
        if trace is not None:
            inlined: R = self._inline(trace, args, kwargs)
            return inlined
        return self.invoke(*args, **kwargs)

    def invoke(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the program and wait for its result. Ctrl-C cancels the run. Raises ProgramError."""
        job = self._run_of(args, kwargs)
        if isinstance(job, StaticJob) and not job.traced.tools:
            expect_no_loop()
            alone: R = job.returned(self.client.invoke(job.submission(stream=False)))
            return alone
        result: R = wait(self._run(job))
        return result

    async def ainvoke(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `invoke`, for event loops; cancelling the task cancels the run."""
        result: R = await self._run(self._run_of(args, kwargs))
        return result

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Generator[R | str]:
        """The pieces of the result as a model writes them, if it is such a text; otherwise the result.

        Closing it cancels the run.
        """
        yield from iterate(self._chunks(self._run_of(args, kwargs)))

    async def astream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R | str]:
        """As `stream`, for event loops."""
        async with aclosing(self._chunks(self._run_of(args, kwargs))) as chunks:
            async for chunk in chunks:
                yield chunk

    def events(self, *args: P.args, **kwargs: P.kwargs) -> Generator[Event[R]]:
        """What happens in a run of the program, as it happens: the pieces of each text that it returns or
        that has a name, what tools are given and give, primitives, questions, and in the end the result.

        Closing it cancels the run. Raises ProgramError as `invoke` does, after the last event.
        """
        yield from iterate(self._events(self._run_of(args, kwargs)))

    async def aevents(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Event[R]]:
        """As `events`, for event loops."""
        async with aclosing(self._events(self._run_of(args, kwargs))) as events:
            async for event in events:
                yield event

    @overload
    def batch(
        self,
        calls: Iterable[Call],
        *,
        concurrency: int | None = None,
        return_exceptions: Literal[False] = False,
    ) -> list[R]: ...
    @overload
    def batch(
        self, calls: Iterable[Call], *, concurrency: int | None = None, return_exceptions: bool
    ) -> list[R | Exception]: ...

    def batch(
        self, calls: Iterable[Call], *, concurrency: int | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """The results of many calls, in their order, at most `concurrency` of them at a time.

        What calls have in common (equal greedy texts, embeddings, rerankings) is computed once.
        The first failure cancels the rest and is raised; with `return_exceptions` it stands in its place, as
        do arguments that do not fit, which are refused before anything runs otherwise.
        """
        return wait(self._batch(self._jobs(calls, return_exceptions), concurrency, return_exceptions))

    @overload
    async def abatch(
        self,
        calls: Iterable[Call],
        *,
        concurrency: int | None = None,
        return_exceptions: Literal[False] = False,
    ) -> list[R]: ...
    @overload
    async def abatch(
        self, calls: Iterable[Call], *, concurrency: int | None = None, return_exceptions: bool
    ) -> list[R | Exception]: ...

    async def abatch(
        self, calls: Iterable[Call], *, concurrency: int | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """As `batch`, for event loops."""
        return await self._batch(self._jobs(calls, return_exceptions), concurrency, return_exceptions)

    @overload
    def batch_as_completed(
        self,
        calls: Iterable[Call],
        *,
        concurrency: int | None = None,
        return_exceptions: Literal[False] = False,
    ) -> Generator[tuple[int, R]]: ...
    @overload
    def batch_as_completed(
        self, calls: Iterable[Call], *, concurrency: int | None = None, return_exceptions: bool
    ) -> Generator[tuple[int, R | Exception]]: ...

    def batch_as_completed(
        self, calls: Iterable[Call], *, concurrency: int | None = None, return_exceptions: bool = False
    ) -> Generator[tuple[int, Any]]:
        """As `batch`, but the number of each call with its result, as soon as there is one.

        Closing it cancels the rest.
        """
        jobs = self._jobs(calls, return_exceptions)
        yield from iterate(as_completed(self._run, jobs, concurrency, return_exceptions))

    @overload
    def abatch_as_completed(
        self,
        calls: Iterable[Call],
        *,
        concurrency: int | None = None,
        return_exceptions: Literal[False] = False,
    ) -> AsyncGenerator[tuple[int, R]]: ...
    @overload
    def abatch_as_completed(
        self, calls: Iterable[Call], *, concurrency: int | None = None, return_exceptions: bool
    ) -> AsyncGenerator[tuple[int, R | Exception]]: ...

    async def abatch_as_completed(
        self, calls: Iterable[Call], *, concurrency: int | None = None, return_exceptions: bool = False
    ) -> AsyncGenerator[tuple[int, Any]]:
        """As `batch_as_completed`, for event loops."""
        jobs = self._jobs(calls, return_exceptions)
        done = as_completed(self._run, jobs, concurrency, return_exceptions)
        async with aclosing(done):
            async for one in done:
                yield one

    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]: ...
    @overload
    def submit(self, *args: Any, detached: bool, stream: bool = False, **kwargs: Any) -> Run[R]: ...
    @overload
    def submit(self, *args: Any, stream: bool, detached: bool = False, **kwargs: Any) -> Run[R]: ...

    def submit(self, *args: Any, detached: bool = False, stream: bool = False, **kwargs: Any) -> Run[R]:  # type: ignore[misc]  # as no program has parameters of these two names, it takes what each overload does
        """Start a run and return at once.

        Args:
            *args: The program's arguments.
            detached: The run goes on when this process ends.
            stream: `Run.pieces` and `Run.events` have the text of the result as a model writes it, and
                `Run.events` what `events` has.
            **kwargs: The program's arguments.

        Raises TraceError for wrong arguments, and for a run that is to be both detached and streamed.
        """
        job = self._submitted(args, kwargs, detached=detached, stream=stream)
        if detached:
            watch = self.client.detach(self._detachable(job)).result()
            return Run(watch, PROGRAMS.start(job.result, watch))
        session = wait(self._open(job, stream=stream, quiet=False))
        return Run(session, PROGRAMS.start(job.result, session))

    @overload
    async def asubmit(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]: ...
    @overload
    async def asubmit(self, *args: Any, detached: bool, stream: bool = False, **kwargs: Any) -> Run[R]: ...
    @overload
    async def asubmit(self, *args: Any, stream: bool, detached: bool = False, **kwargs: Any) -> Run[R]: ...

    async def asubmit(  # type: ignore[misc]  # as no program has parameters of these two names
        self, *args: Any, detached: bool = False, stream: bool = False, **kwargs: Any
    ) -> Run[R]:
        """As `submit`, for event loops: async programs and tools run on this one.

        Wait for the run by its async methods: a loop that is blocked cannot run the program.
        """
        job = self._submitted(args, kwargs, detached=detached, stream=stream)
        if detached:
            watch = await asyncio.wrap_future(self.client.detach(self._detachable(job)))
            return Run(watch, PROGRAMS.start(job.result, watch))
        session = await self._open(job, stream=stream, quiet=False)
        task = asyncio.ensure_future(job.result(session))
        task.add_done_callback(lambda done: session.abandon() if done.cancelled() else None)
        return Run(session, shared(task), home=task.get_loop())

    # ---- the graph

    @abstractmethod
    def graph(self, **static: Any) -> Graph:
        """The graph as written, for certain static arguments; needs no server. Raises TraceError."""

    def explain(self, **static: Any) -> Explanation:
        """The graph as written and after each pass of the server's optimizer. Raises ProgramError."""
        request = pb.ExplainRequest(graph=encode_graph(self.graph(**static)))
        return Explanation.of(self.client.explain(request))

    @property
    def client(self) -> Client:
        """The client that runs of the program use."""
        return self._client or default_client()

    # ---- how calls are run

    @abstractmethod
    def _inline(self, trace: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The result as part of the program that is being traced."""

    @abstractmethod
    def _job(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Job:
        """One call. Raises TraceError for wrong arguments."""

    @abstractmethod
    def _detachable(self, job: Job) -> Submission:
        """What starts a run that belongs to nobody. Raises TraceError for one that needs this process."""

    def _submitted(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, detached: bool, stream: bool
    ) -> Job:
        if detached and stream:
            raise TraceError(located("a detached run cannot be streamed: submit it with one of the two"))
        return self._run_of(args, kwargs)

    def _run_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Job:
        """A call that is a run of its own. Raises TraceError for wrong arguments, and amid tracing."""
        trace = tracing()
        if trace is not None and not isinstance(trace, LiveTrace):
            raise TraceError(
                located(
                    f"program {self.name!r} would run while {trace.program!r} is traced, once for all runs "
                    f"of it; to make it part of them, call the program itself: {self.name}(…)"
                )
            )
        return self._job(args, kwargs)

    def _jobs(self, calls: Iterable[Call], in_place: bool) -> list[Job | ArgumentError]:
        """The calls of a batch. Arguments that do not fit are raised, or stand `in_place` of their call."""
        together = copy.copy(self)
        together._options = replace(self._options, batch=secrets.token_hex(8))
        jobs: list[Job | ArgumentError] = []
        for number, call in enumerate(calls):
            if not isinstance(call, (Mapping, Sequence)) or isinstance(call, (str, bytes)):
                raise TraceError(
                    located(f"a call of batch() is a dict or a tuple of arguments: write ({call!r},)")
                )
            args, kwargs = ((), call) if isinstance(call, Mapping) else (tuple(call), {})
            try:
                jobs.append(together._run_of(args, kwargs))
            except ArgumentError as problem:
                if not in_place:
                    problem.add_note(f"in call {number} of the batch")
                    raise
                jobs.append(problem)
        return jobs

    async def _open(self, job: Job, *, stream: bool, quiet: bool = True) -> Session:
        """Start a run from the loop that it is to use."""
        submission = replace(job.submission(stream=stream), quiet=quiet, follow=stream and not quiet)
        home = asyncio.get_running_loop()
        return await asyncio.wrap_future(self.client.open(submission, home, untraced()))

    async def _run(self, job: Job) -> Any:
        if isinstance(job, StaticJob) and not job.traced.tools:
            return job.returned(await self.client.ainvoke(job.submission(stream=False)))
        session = await self._open(job, stream=False)
        try:
            return await job.result(session)
        except asyncio.CancelledError:
            session.abandon()
            raise

    async def _chunks(self, job: Job) -> AsyncGenerator[Any]:
        streamed = ""
        async with self._streaming(job, quiet=True) as (session, result):
            async for event in session.events():
                if text := result_text(event):
                    streamed += text
                    yield text
            for rest in rest_of(await result, streamed):
                yield rest

    async def _events(self, job: Job) -> AsyncGenerator[Any]:
        async with self._streaming(job, quiet=False) as (session, result):
            async for event in session.events():
                if isinstance(event, RunFinished) and event.state == "done":
                    event = replace(event, result=await result)
                yield event
            await result

    @asynccontextmanager
    async def _streaming(
        self, job: Job, *, quiet: bool
    ) -> AsyncGenerator[tuple[Session, asyncio.Future[Any]]]:
        """A run and its result to come; leaving cancels what is not over."""
        session = await self._open(job, stream=True, quiet=quiet)
        result = asyncio.ensure_future(job.result(session))
        try:
            yield session, result
        finally:
            if not result.done():
                session.abandon()
                result.cancel()
            await asyncio.wait({result})

    async def _batch(
        self, jobs: list[Job | ArgumentError], concurrency: int | None, return_exceptions: bool
    ) -> list[Any]:
        results: list[Any] = [None] * len(jobs)
        async with aclosing(as_completed(self._run, jobs, concurrency, return_exceptions)) as done:
            async for number, result in done:
                results[number] = result
        return results
