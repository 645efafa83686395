"""One run for one HTTP request: started, followed without loss, and cancelled with the request."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from weft.graph.codec import decode_datum, decode_value, encode_graph, encode_value
from weft.graph.errors import GraphError
from weft.graph.ir import Graph, Value
from weft.graph.values import Datum, plain
from weft.proto import orchestrator_pb2 as pb
from weft.proto import worker_pb2
from weft.runtime.orchestrator.door import DoorError
from weft.runtime.orchestrator.orchestrator import Orchestrator
from weft.runtime.orchestrator.run import Run

from .errors import ApiError

__all__ = ["Call", "Piece", "Usage", "start", "text_of"]


class Piece(NamedTuple):
    """The next part of a streamed text."""

    stream: int  # its place among the streamed values
    text: str


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    prompt: int
    cached: int  # of the prompt: read before this request
    written: int

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's API has it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt + self.written,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


def start(
    orchestrator: Orchestrator,
    program: Graph | str,
    inputs: Mapping[str, Any],
    *,
    stream: Sequence[Value] = (),
    namespace: str = "",
) -> Call:
    """Run a graph, or the registered program of that name; `stream`: texts that are wanted in pieces.

    Raises ApiError; nothing has happened then.
    """
    request = pb.SubmitRequest(
        inputs={name: json.dumps(value) for name, value in inputs.items()}, namespace=namespace
    )
    if isinstance(program, str):
        request.program = program
    names = [encode_value(value) for value in stream]
    try:
        if isinstance(program, Graph):
            request.graph.CopyFrom(encode_graph(program))
        run = orchestrator.start(request, stream=names, once=isinstance(program, Graph))
    except DoorError as problem:
        raise ApiError.refused(problem) from None
    except GraphError as problem:
        raise ApiError(400, str(problem)) from None
    return Call(orchestrator, run, stream)


def text_of(datum: Datum) -> str:
    """A result as text: texts as they are, all else as JSON."""
    value = plain(datum)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class Call:
    """A run that somebody waits for."""

    def __init__(self, orchestrator: Orchestrator, run: Run, streamed: Sequence[Value]) -> None:
        self._orchestrator = orchestrator
        self._run = run
        self._streamed = streamed

    @property
    def id(self) -> str:
        """The run's name."""
        return self._run.id

    @property
    def started_unix_s(self) -> int:
        """When the run began."""
        return int(self._run.record.started_unix_s)

    def cancel(self) -> None:
        """End the run if it is not over: nobody waits for it any more."""
        self._orchestrator.stop(self._run, "its client went away")

    async def outputs(self) -> list[Datum]:
        """The results, once there are all. Raises ApiError."""
        record = self._run.record
        await record.ended.wait()
        result = record.result(quiet=True)
        if result.HasField("fault"):
            raise ApiError.failed(result.fault)
        return [decode_datum(output) for output in result.outputs]

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """The streamed texts as they are written, each piece once, even if a worker is lost on the way.

        The streamed values must be the first outputs of the graph. Raises ApiError.
        """
        places = {value: place for place, value in enumerate(self._streamed)}
        sent = [0] * len(self._streamed)  # characters
        async for events in self._run.record.log.follow(quiet=True):
            new: dict[int, list[str]] = defaultdict(list)
            for event in events.events:
                if event.HasField("delta"):
                    if event.delta.again:
                        raise _diverged()
                    new[places[decode_value(event.delta.value)]].append(event.delta.text)
            pieces = [Piece(place, "".join(parts)) for place, parts in new.items()]
            for piece in pieces:
                sent[piece.stream] += len(piece.text)
            if pieces:
                yield pieces
        outputs = await self.outputs()
        yield [Piece(place, text_of(outputs[place])[length:]) for place, length in enumerate(sent)]

    # ---- what it took, once it is over

    def timing(self, value: Value) -> worker_pb2.Timing:
        """Of the primitive that made a value."""
        times = self._run.record.times.get(self._maker(value))
        return times.timing if times is not None else worker_pb2.Timing()

    def usage(self, samples: Sequence[Sequence[Value]]) -> Usage:
        """The tokens of several prompts, by the values that were written after each."""
        prompt = sum(self.timing(values[0]).prompt_tokens for values in samples)
        written = sum(self.timing(value).generated_tokens for values in samples for value in values)
        return Usage(prompt, max(prompt - self._run.record.tokens.computed, 0), written)

    def usage_of_all(self) -> Usage:
        """The tokens of all prompts that models have read, and of all that they have written.

        Those of the runs that it has started are among them.
        """
        prompt, computed, generated = self._run.record.tokens
        return Usage(prompt, max(prompt - computed, 0), generated)

    def _maker(self, value: Value) -> int:
        return self._run.graph.resolve(value).node


def _diverged() -> ApiError:
    message = "a worker was lost, and another one did not write again what had been streamed; ask again"
    return ApiError(503, message, code="worker_lost")
