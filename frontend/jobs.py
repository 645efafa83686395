"""One call of a program, ready to be run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph
from weft.graph.values import Datum, plain

from .client.session import Session, Submission, WatchSession
from .dynamic import LiveTrace, drive, restored, returned
from .signature import Signature
from .static import Traced
from .tools import Tool

__all__ = ["DynamicJob", "Job", "Options", "StaticJob"]


@dataclass(frozen=True)
class Options:
    """How the runs of a program are to be served."""

    deadline_s: float = 0.0  # of a run; 0: none
    namespace: str = ""
    priority: int = 0
    batch: str = ""  # the batch that the run belongs to


class Job(Protocol):
    """One call: what to send, and how to come from the run to the result."""

    def submission(self, *, stream: bool) -> Submission:
        """What starts the run. On the loop where `result` will run."""
        ...

    async def result(self, session: Any) -> Any:
        """What the program returns. Raises ProgramError."""
        ...


@dataclass(frozen=True)
class StaticJob:
    """A call of a traced program."""

    traced: Traced
    signature: Signature
    inputs: Mapping[str, str]  # JSON text
    options: Options

    def submission(self, *, stream: bool) -> Submission:
        """The whole graph."""
        return Submission(
            self.traced.graph.name,
            self.traced.instance(),
            self.inputs,
            stream=self.traced.streamed if stream else (),
            tools=self.traced.tools,
            announced=tuple(sorted(self.traced.tools)),
            deadline_s=self.options.deadline_s,
            namespace=self.options.namespace,
            priority=self.options.priority,
            batch=self.options.batch,
        )

    async def result(self, session: WatchSession) -> Any:
        """What the run returns, as the program would."""
        return self.returned(await asyncio.wrap_future(session.outputs()))

    def returned(self, outputs: tuple[Datum, ...]) -> Any:
        """The graph's only output, in the structure that the program returned."""
        (output,) = outputs
        return returned(self.signature, restored(self.signature, self.traced.shape, plain(output)))


class DynamicJob:
    """A call of an async program."""

    def __init__(
        self,
        fn: Callable[..., Coroutine[Any, Any, Any]],
        signature: Signature,
        arguments: dict[str, Any],
        options: Options,
    ) -> None:
        self._fn = fn
        self._signature = signature
        self._arguments = arguments
        self._options = options
        self._trace: LiveTrace | None = None
        self._stream = False

    def submission(self, *, stream: bool) -> Submission:
        """An empty graph that grows. The run may call any tool that this process has defined."""
        self._trace = LiveTrace(self._fn.__name__)
        self._stream = stream
        name = self._fn.__name__
        return Submission(
            name,
            encode_graph(Graph((), (), name)),
            tools=self._trace.tools,
            announced=Tool.names(),
            grows=True,
            deadline_s=self._options.deadline_s,
            namespace=self._options.namespace,
            priority=self._options.priority,
            batch=self._options.batch,
        )

    async def result(self, session: Session) -> Any:
        """What the coroutine returns."""
        assert self._trace is not None
        return await drive(
            self._fn, self._signature, self._arguments, self._trace, session, stream=self._stream
        )
