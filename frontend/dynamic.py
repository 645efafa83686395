"""Runs of `async def` programs: what is traced between two awaits is sent as one increment."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from pydantic_core import to_json

from weft.graph.errors import GraphError
from weft.graph.ir import Graph, Node, Value
from weft.graph.values import Datum, plain

from .client.emitting import emitting
from .client.faults import fault_of
from .client.session import Session
from .errors import ProgramError, RunTimeout, TraceError
from .lifting import Shape, as_data, as_typed, holds_var, lifted
from .models import values_explained
from .signature import Signature
from .static import is_written_text, seeded
from .trace import Trace
from .var import Var

__all__ = ["LiveTrace", "drive", "restored", "returned"]

T = TypeVar("T")


class LiveTrace(Trace):
    """The graph of a run that grows with its program. Lives on the program's event loop."""

    def __init__(self, program: str) -> None:
        super().__init__(program)
        self._session: Session | None = None
        self._loop = asyncio.get_running_loop()
        self._sent = 0  # nodes
        self._values: dict[Value, asyncio.Future[Datum]] = {}
        self._waiting: Counter[Value] = Counter()  # who waits for them
        self._wanted: list[Value] = []
        self._withdrawn: list[Value] = []
        self._streamed: list[Value] = []
        self._flushing: asyncio.Handle | None = None

    def attach(self, session: Session) -> None:
        """Say where the run goes on."""
        self._session = session

    def awaited(self, var: Var[Any]) -> Awaitable[Any]:
        """The value of a `Var` as its Python type. Raises ProgramError when the run fails."""
        return self._load(var, self.own(var))

    async def datum(self, value: Value) -> Datum:
        """A value as it comes from the server; increments that hold it are sent first.

        Cancelling all who wait for a value withdraws it; who waits for it afterwards asks for it anew.
        """
        if value not in self._values:
            self._values[value] = self._loop.create_future()
            self._want(value)
        received = self._values[value]
        self._waiting[value] += 1
        try:
            return await asyncio.shield(received)
        except asyncio.CancelledError:
            if self._waiting[value] == 1 and not received.done():
                self._withdraw(value)
            raise
        finally:
            self._waiting[value] -= 1

    def stream(self, value: Value) -> None:
        """Ask for the pieces of a text, unless its model may have begun to write it."""
        pending = {node.id: node for node in self.nodes[self._sent :]}
        if is_written_text(pending.get(value.node)):
            self._streamed.append(value)

    def flush(self) -> None:
        """Send what was traced and not sent yet, and which values are waited for, and which no longer.

        What cannot be sent is a TraceError for those who wait, or raised if nobody does.
        """
        assert self._session is not None
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        increment, wanted, streamed = self._increment(), self._wanted, self._streamed
        withdrawn = self._withdrawn
        self._wanted, self._streamed, self._withdrawn = [], [], []
        if not (increment.nodes or wanted or withdrawn):
            return
        try:
            self._session.extend(increment, wanted, streamed, withdrawn)
        except GraphError as problem:
            self._fail(wanted, TraceError(str(problem)))
            return
        for value in wanted:
            received = asyncio.wrap_future(self._session.value(value), loop=self._loop)
            _forward(received, self._values[value])

    def _fail(self, wanted: list[Value], mistake: TraceError) -> None:
        for value in wanted:
            self._values[value].set_exception(mistake)
            self._values[value].exception()  # seen: somebody else may raise it first
        if not wanted:
            raise mistake

    async def _load(self, var: Var[Any], value: Value) -> Any:
        data = plain(await self.datum(value))
        try:
            return var._pytype.load(data)
        except ValueError as problem:
            node = next(node for node in self.nodes if node.id == value.node)
            message = f"the value is not {var._pytype.name}: {problem}"
            raise ProgramError(
                message, program=self.program, node=f"{value} {node.op.label()}", location=node.location
            ) from None

    def _want(self, value: Value) -> None:
        """Ask for a value at the loop's next turn, so that what is awaited together is sent together."""
        self._wanted.append(value)
        self._flush_soon()

    def _withdraw(self, value: Value) -> None:
        """Nobody waits any more for a value, which was asked for before the loop woke who is cancelled.

        The wishes of a program that is over do not count.
        """
        self._values.pop(value).cancel()
        if not self.closed:
            self._withdrawn.append(value)
            self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self.flush)

    def _increment(self) -> Graph:
        nodes = tuple(self.nodes[self._sent :])
        self._sent += len(nodes)
        graph = Graph(nodes, (), self.program, self._outside(nodes))
        unseeded = frozenset(id(op) for op in self.unseeded)
        self.unseeded.clear()
        return seeded(graph, unseeded)

    def _outside(self, nodes: tuple[Node, ...]) -> dict[Value, Any]:
        made = {node.id for node in nodes}
        taken = {value for node in nodes for value in node.args.values() if value.node not in made}
        return {value: self.types[value] for value in sorted(taken)}


async def drive(
    fn: Callable[..., Coroutine[Any, Any, T]],
    signature: Signature,
    arguments: dict[str, Any],
    trace: LiveTrace,
    session: Session,
    *,
    stream: bool,
) -> T:
    """Run the coroutine of a program to its end, and tell the server how it ended.

    Raises what the program raises, and ProgramError when the run fails.
    """
    trace.attach(session)
    try:
        with trace.active(), values_explained(), emitting(session.journal):
            result = await _unless_ended(fn(**arguments), session)
            value: T = await _result(result, signature, trace, stream=stream)
    except Exception as problem:
        await _finish(session, "", problem)
        raise
    except BaseException:  # cancelled, or what ends processes and tests
        session.abandon()
        raise
    finally:
        trace.closed = True
    await _finish(session, _told(value), None)
    return value


def _told(value: Any) -> str:
    """What the server is told that the program returned: JSON, of whatever it is."""
    try:
        return to_json(value, fallback=repr, inf_nan_mode="strings").decode()
    except ValueError:  # text that is none, for one
        return to_json(repr(value)).decode()


async def _result(result: Any, signature: Signature, trace: LiveTrace, *, stream: bool) -> Any:
    """What the program returned, with the values of its `Var`s, as the declared type."""
    if inspect.isawaitable(result) and not isinstance(result, Var):
        if isinstance(result, Coroutine):
            result.close()
        raise TraceError(f"{signature.owner} returned something to await; write `return await …`")
    if holds_var(result):
        lift = lifted(result, trace)
        value = lift.value(trace)
        if stream:
            trace.stream(value)
        data = plain(await trace.datum(value))
        result = restored(signature, lift.shape, data)
    trace.flush()
    return returned(signature, result)


def restored(signature: Signature, shape: Shape, data: Any) -> Any:
    """JSON data in the structure that a program returned; of its values' own types if it declares none.

    Raises ProgramError for a value that is not of its type.
    """
    try:
        return shape.restore(data, as_data if signature.declares_result else as_typed)
    except ValueError as problem:
        raise ProgramError(f"{signature.owner} returns a value that is not of its type: {problem}") from None


def returned(signature: Signature, result: Any) -> Any:
    """A result as the declared type. Raises ProgramError if it is not of it."""
    try:
        return signature.result(result)
    except ValueError as problem:
        raise ProgramError(str(problem)) from None


async def _unless_ended(program: Coroutine[Any, Any, T], session: Session) -> T:
    """Run a program, and end it when its run is cancelled from elsewhere or out of time."""
    running: asyncio.Future[Any] = asyncio.ensure_future(program)
    outcome: asyncio.Future[Any] = asyncio.wrap_future(session.outputs())
    try:
        await asyncio.wait({running, outcome}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done() and (session.journal.state == "cancelled" or _is_late(session)):
            running.cancel()
            await asyncio.wait({running})
            await outcome
        result: T = await running
        return result
    finally:
        for task in (running, outcome):
            task.cancel()
        await asyncio.wait({running, outcome})


def _is_late(session: Session) -> bool:
    """Whether the run took longer than it may, rather than a node of it."""
    error = session.journal.error
    return isinstance(error, RunTimeout) and not error.node


async def _finish(session: Session, result: str, problem: Exception | None) -> None:
    """Tell the server that the program is over, and wait until it knows."""
    session.finish(result, None if problem is None else fault_of(problem, "internal"))
    try:
        await asyncio.wrap_future(session.outputs())
    except ProgramError:
        if problem is None:
            raise


def _forward(source: asyncio.Future[Datum], target: asyncio.Future[Datum]) -> None:
    """Let `target` end as `source` does, and nobody wait for `source` when `target` is cancelled."""

    def copy(done: asyncio.Future[Datum]) -> None:
        error = None if done.cancelled() else done.exception()
        if target.done():
            return
        if done.cancelled():
            target.cancel()
        elif error is not None:
            target.set_exception(error)
            target.exception()  # seen: not every value that was asked for is still waited for
        else:
            target.set_result(done.result())

    source.add_done_callback(copy)
    target.add_done_callback(lambda done: source.cancel() if done.cancelled() else None)
