"""`POST /v1/completions`: texts that go on where the prompt ends, past any chat template."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, ClassVar, Final

from starlette.requests import Request
from starlette.responses import Response

from weft.runtime.orchestrator.orchestrator import Orchestrator

from .answers import Answer, Choices, Tokens, answer, of_generation, of_program
from .bodies import IGNORED, UNSUPPORTED, CompletionBody
from .errors import ApiError
from .fields import read_body
from .forms import form_of, structure_of
from .generation import generation, sampling_of
from .incoming import in_turn, orchestrator_of, parsed, read
from .prompts import Prompt
from .targets import Program, check_for_model, check_for_program, target_of

__all__ = ["completions"]

_FOR_PROGRAMS: Final = frozenset({"cache_salt", "inputs", "model", "prompt", "stream", "stream_options"})
_MAX_TOKENS: Final = 16  # OpenAI's default
_UNSUPPORTED: Final = {name: why for name, why in UNSUPPORTED.items() if name != "echo"}


async def completions(request: Request) -> Response:
    """Complete one text or several. Raises ApiError."""
    raw = await read(request)
    async with in_turn(request):
        body = read_body(CompletionBody, parsed(raw), ignored=IGNORED, unsupported=_UNSUPPORTED)
        found = _started(orchestrator_of(request), body)
    return await answer(request, found, body, _Completion(body))


def _started(orchestrator: Orchestrator, body: CompletionBody) -> Answer:
    """The run that answers a request. Raises ApiError."""
    target = target_of(orchestrator, body.model)
    if isinstance(target, Program):
        check_for_program(body, _FOR_PROGRAMS)
        if len(body.prompt) > 1:
            raise ApiError(400, "a program takes one prompt; send a request for each", param="prompt")
        said = body.prompt[0]
        if not isinstance(said, str):
            raise ApiError(400, "a program takes a text, no token ids", param="prompt")
        inputs = target.inputs(body.inputs, [{"role": "user", "content": said}])
        return of_program(orchestrator, target, inputs, body)
    check_for_model(body)
    if body.echo and body.stream:
        raise ApiError(400, "'echo' does not go with 'stream'; leave out one of them", param="echo")
    limit = body.max_tokens or _MAX_TOKENS
    found = generation(
        "completion",
        target.name,
        [(Prompt.of(prompt), sampling_of(body, limit)) for prompt in body.prompt],
        n=body.n,
        constraint=structure_of(body.structured_outputs) or form_of(body.response_format),
        logprobs=0 if body.logprobs is None and body.return_token_ids else body.logprobs,
        echo=body.echo,
    )
    return of_generation(orchestrator, found, body)


class _Completion:
    """Choices with texts."""

    prefix: ClassVar = "cmpl"
    whole: ClassVar = "text_completion"
    part: ClassVar = "text_completion"

    def __init__(self, body: CompletionBody) -> None:
        self._body = body

    def push(self, choice: int, text: str) -> Choices:
        return [_choice(choice, text)] if text else []

    def close(self, choice: int, finish: str, tokens: Tokens | None) -> Choices:
        return self.complete(choice, "", finish, tokens, None)

    def complete(
        self, choice: int, text: str, finish: str, tokens: Tokens | None, prompt: Tokens | None
    ) -> Choices:
        made = {**_choice(choice, text), "finish_reason": finish}
        if self._body.return_token_ids:
            made["token_ids"] = [token["id"] for token in tokens or ()]
        if prompt is not None:
            made["text"] = self._echoed(choice, prompt) + text
        if self._body.logprobs is not None:
            made["logprobs"] = self._logprobs([*(prompt or ()), *(tokens or ())])
        return [made]

    def _echoed(self, choice: int, tokens: Tokens) -> str:
        prompt = self._body.prompt[choice // self._body.n]
        if isinstance(prompt, str):
            return prompt
        return b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace")

    def _logprobs(self, tokens: Tokens) -> dict[str, Any]:
        texts = [token["text"] for token in tokens]
        lengths = accumulate(map(len, texts), initial=0)
        return {
            "tokens": [self._named(token) for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [
                {self._named(rival): rival["logprob"] for rival in token["top"]} for token in tokens
            ],
            "text_offset": list(lengths)[:-1],
        }

    def _named(self, token: Mapping[str, Any]) -> str:
        return f"token_id:{token['id']}" if self._body.return_tokens_as_token_ids else token["text"]


def _choice(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None}
