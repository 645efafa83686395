"""`POST /v1/completions`: texts that go on where the prompt ends, past any chat template."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from starlette.requests import Request
from starlette.responses import Response

from weft.runtime.orchestrator.orchestrator import Orchestrator

from .answers import Answer, Choices, Tokens, answer, of_generation, of_program
from .bodies import IGNORED, UNSUPPORTED, CompletionBody
from .errors import ApiError
from .fields import read_body
from .generation import generation, sampling_of
from .incoming import in_turn, orchestrator_of, parsed, read
from .prompts import Prompt
from .targets import Program, check_for_model, check_for_program, target_of

__all__ = ["completions"]

_FOR_PROGRAMS: Final = frozenset({"cache_salt", "inputs", "model", "prompt", "stream", "stream_options"})
_MAX_TOKENS: Final = 16  # OpenAI's default


async def completions(request: Request) -> Response:
    """Complete one text or several. Raises ApiError."""
    raw = await read(request)
    async with in_turn(request):
        body = read_body(CompletionBody, parsed(raw), ignored=IGNORED, unsupported=UNSUPPORTED)
        found = _started(orchestrator_of(request), body)
    return await answer(request, found, body, _Completion())


def _started(orchestrator: Orchestrator, body: CompletionBody) -> Answer:
    """The run that answers a request. Raises ApiError."""
    target = target_of(orchestrator, body.model)
    if isinstance(target, Program):
        check_for_program(body, _FOR_PROGRAMS)
        if len(body.prompt) > 1:
            raise ApiError(400, "a program takes one prompt; send a request for each", param="prompt")
        inputs = target.inputs(body.inputs, [("user", body.prompt[0])])
        return of_program(orchestrator, target, inputs, body)
    check_for_model(body)
    found = generation(
        "completion",
        target.name,
        [(Prompt.of(text), sampling_of(body, body.max_tokens or _MAX_TOKENS)) for text in body.prompt],
        n=body.n,
        logprobs=body.logprobs,
    )
    return of_generation(orchestrator, found, body)


class _Completion:
    """Choices with texts."""

    prefix: ClassVar = "cmpl"
    whole: ClassVar = "text_completion"
    part: ClassVar = "text_completion"

    def push(self, choice: int, text: str) -> Choices:
        return [_choice(choice, text)] if text else []

    def close(self, choice: int, finish: str, tokens: Tokens | None) -> Choices:
        return self.complete(choice, "", finish, tokens)

    def complete(self, choice: int, text: str, finish: str, tokens: Tokens | None) -> Choices:
        return [{**_choice(choice, text), "logprobs": _logprobs(tokens), "finish_reason": finish}]


def _choice(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None}


def _logprobs(tokens: Tokens | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    texts = [token["text"] for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{rival["text"]: rival["logprob"] for rival in token["top"]} for token in tokens],
        "text_offset": [len("".join(texts[:index])) for index in range(len(texts))],
    }
