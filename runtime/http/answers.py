"""Answers to chats and completions, whole or streamed; how their choices look is the format's business."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.graph.ir import Value
from weft.graph.values import plain
from weft.runtime.orchestrator.orchestrator import Orchestrator

from .bodies import GenerationBody
from .calls import Call, Usage, start, text_of
from .generation import Generation
from .responses import DONE, EventStream, event, while_connected
from .targets import Program

__all__ = ["Answer", "Choices", "Format", "Tokens", "answer", "of_generation", "of_program"]

Choices = list[dict[str, Any]]
"""Choices as they stand in a response or in a chunk of a stream."""
Tokens = Sequence[Mapping[str, Any]]
"""See `weft.graph.types.TOKENS`."""


class Format(Protocol):
    """Turns texts into the choices of a response."""

    prefix: ClassVar[str]
    """Of the ids of responses."""
    whole: ClassVar[str]
    """What a response calls itself."""
    part: ClassVar[str]
    """What a chunk of a stream calls itself."""

    def push(self, choice: int, text: str) -> Choices:
        """What a chunk says about the next piece of a choice's text."""

    def close(self, choice: int, finish: str, tokens: Tokens | None) -> Choices:
        """What a chunk says at the end of a choice."""

    def complete(
        self, choice: int, text: str, finish: str, tokens: Tokens | None, prompt: Tokens | None
    ) -> Choices:
        """A choice in a response; with the tokens of its prompt if this is to be echoed."""


@dataclass(frozen=True)
class Answer:
    """A run, and where in its results the choices are."""

    call: Call
    texts: Sequence[Value]
    samples: Sequence[Sequence[Value]] | None
    """The texts by prompt; None if a program has written them."""
    echo: bool = False
    """Whether the last results are the tokens of the prompts."""

    def finish(self, choice: int) -> str:
        """Why a text ended, once the run is over: stop or length."""
        return self.call.timing(self.texts[choice]).finish or "stop"

    async def tokens(self) -> list[Tokens | None]:
        """The tokens of each text, if they were asked for; the run is over by then."""
        outputs = await self.call.outputs()
        found = [plain(datum) for datum in outputs[len(self.texts) : len(outputs) - self._echoes]]
        return [*found] if self.samples is not None and found else [None] * len(self.texts)

    async def prompts(self) -> list[Tokens | None]:
        """The tokens of each text's prompt, if it is to be echoed; the run is over by then."""
        if not self.echo or self.samples is None:
            return [None] * len(self.texts)
        found = [plain(datum) for datum in (await self.call.outputs())[-self._echoes :]]
        return [tokens for tokens, group in zip(found, self.samples, strict=True) for _ in group]

    @property
    def _echoes(self) -> int:
        return len(self.samples) if self.echo and self.samples is not None else 0

    def usage(self) -> Usage:
        """What the run took, once it is over."""
        return self.call.usage_of_all() if self.samples is None else self.call.usage(self.samples)


def of_generation(orchestrator: Orchestrator, generation: Generation, body: GenerationBody) -> Answer:
    """Start the run that answers a request to a model. Raises ApiError."""
    call = start(
        orchestrator,
        generation.graph,
        generation.inputs,
        stream=generation.texts if body.stream else (),
        namespace=body.cache_salt,
    )
    return Answer(call, generation.texts, generation.samples, generation.echo)


def of_program(
    orchestrator: Orchestrator, program: Program, inputs: Mapping[str, Any], body: GenerationBody
) -> Answer:
    """Start the run that answers a request to a program. Raises ApiError."""
    outputs = program.graph.outputs
    call = start(
        orchestrator,
        program.name,
        inputs,
        stream=outputs if body.stream else (),
        namespace=body.cache_salt,
    )
    return Answer(call, outputs, None)


async def answer(request: Request, found: Answer, body: GenerationBody, form: Format) -> Response:
    """The response to a request whose run has been started. Raises ApiError and Gone."""
    call = found.call
    headers = {"x-request-id": call.id}
    frame = {
        "id": f"{form.prefix}-{call.id}",
        "object": form.part if body.stream else form.whole,
        "created": call.started_unix_s,
        "model": body.model,
    }
    if body.stream:
        events = _events(found, form, frame, include_usage=body.stream_options.include_usage)
        return EventStream(events, call.cancel, headers)
    outputs = await while_connected(request, call.outputs(), call.cancel)
    tokens, prompts = await found.tokens(), await found.prompts()
    choices = [
        made
        for index in range(len(found.texts))
        for made in form.complete(
            index, text_of(outputs[index]), found.finish(index), tokens[index], prompts[index]
        )
    ]
    return JSONResponse({**frame, "choices": choices, "usage": found.usage().body}, headers=headers)


async def _events(
    found: Answer, form: Format, frame: Mapping[str, Any], *, include_usage: bool
) -> AsyncIterator[bytes]:
    unused = {"usage": None} if include_usage else {}

    def chunk(choices: Choices) -> bytes:
        return b"".join(event({**frame, "choices": [choice], **unused}) for choice in choices)

    async for pieces in found.call.pieces():
        sent = b"".join(chunk(form.push(piece.stream, piece.text)) for piece in pieces)
        if sent:
            yield sent
    tokens = await found.tokens()
    for index in range(len(found.texts)):
        yield chunk(form.close(index, found.finish(index), tokens[index]))
    if include_usage:
        yield event({**frame, "choices": [], "usage": found.usage().body})
    yield DONE
