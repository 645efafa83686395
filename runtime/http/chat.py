"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from starlette.requests import Request
from starlette.responses import Response

from weft.graph.sampling import Constraint
from weft.runtime.orchestrator.orchestrator import Orchestrator

from .answers import Answer, Choices, Tokens, answer, of_generation, of_program
from .bodies import IGNORED, UNSUPPORTED, ChatBody
from .errors import ApiError
from .fields import read_body
from .forms import form_of
from .generation import Generation, generation, sampling_of
from .incoming import in_turn, orchestrator_of, parsed, read
from .prompts import chat_prompt
from .replies import Delta, Reader, message_of, reader_for
from .targets import LanguageModel, Program, check_for_model, check_for_program, target_of
from .tools import NO_TOOLS, Toolbox, read_tools

__all__ = ["chat_completions"]

_FOR_PROGRAMS: Final = frozenset({"cache_salt", "inputs", "messages", "model", "stream", "stream_options"})


async def chat_completions(request: Request) -> Response:
    """Answer a conversation. Raises ApiError."""
    raw = await read(request)
    async with in_turn(request):
        body = read_body(ChatBody, parsed(raw), ignored=IGNORED, unsupported=UNSUPPORTED)
        found, form = _started(orchestrator_of(request), body)
    return await answer(request, found, body, form)


def _started(orchestrator: Orchestrator, body: ChatBody) -> tuple[Answer, _Chat]:
    """The run that answers a request. Raises ApiError."""
    target = target_of(orchestrator, body.model)
    if isinstance(target, Program):
        check_for_program(body, _FOR_PROGRAMS)
        inputs = target.inputs(body.inputs, [message.plain() for message in body.messages])
        return of_program(orchestrator, target, inputs, body), _Chat(NO_TOOLS)
    _check(body)
    tools = read_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    return of_generation(orchestrator, _generation(target, body, tools), body), _Chat(tools)


def _check(body: ChatBody) -> None:
    """Refuse parameters that contradict each other. Raises ApiError."""
    check_for_model(body)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "'top_logprobs' needs 'logprobs': true", param="top_logprobs")
    if body.max_tokens and body.max_completion_tokens not in (None, body.max_tokens):
        message = "'max_tokens' and 'max_completion_tokens' contradict each other; pass the latter"
        raise ApiError(400, message, param="max_tokens")


def _generation(model: LanguageModel, body: ChatBody, tools: Toolbox) -> Generation:
    prompt = chat_prompt(
        model.name,
        model.info,
        body.messages,
        tools.tools,
        body.chat_template_kwargs,
        calling=tools.mode == "required",
    )
    limit = body.max_completion_tokens or body.max_tokens
    return generation(
        "chat",
        model.name,
        [(prompt, sampling_of(body, limit or model.room))],
        n=body.n,
        constraint=tools.constraint or _constraint(body, tools),
        logprobs=body.top_logprobs if body.logprobs else None,
    )


def _constraint(body: ChatBody, tools: Toolbox) -> Constraint | None:
    """The form that the answer must have. Raises ApiError."""
    form = body.response_format
    if form.type == "text":
        return None
    if tools.mode == "auto":
        raise ApiError(
            400,
            "'response_format' would keep the model from calling a tool; leave it out, "
            "or pass 'none' or 'required' as 'tool_choice'",
            param="response_format",
        )
    return form_of(form)


class _Chat:
    """Choices with messages."""

    prefix: ClassVar = "chatcmpl"
    whole: ClassVar = "chat.completion"
    part: ClassVar = "chat.completion.chunk"

    def __init__(self, tools: Toolbox) -> None:
        self._readers: defaultdict[int, Reader] = defaultdict(lambda: reader_for(tools))
        self._begun: set[int] = set()

    def push(self, choice: int, text: str) -> Choices:
        return [self._chunk(choice, delta) for delta in self._readers[choice].push(text)]

    def close(self, choice: int, finish: str, tokens: Tokens | None) -> Choices:
        reader = self._readers[choice]
        rest = [self._chunk(choice, delta) for delta in reader.close()]
        last = self._chunk(choice, {})
        return [*rest, {**last, "logprobs": _logprobs(tokens), "finish_reason": _reason(reader, finish)}]

    def complete(
        self, choice: int, text: str, finish: str, tokens: Tokens | None, prompt: Tokens | None
    ) -> Choices:
        reader = self._readers[choice]
        message = message_of([*reader.push(text), *reader.close()])
        return [
            {
                "index": choice,
                "message": {**message, "refusal": None},
                "logprobs": _logprobs(tokens),
                "finish_reason": _reason(reader, finish),
            }
        ]

    def _chunk(self, choice: int, delta: Delta) -> dict[str, Any]:
        role = {} if choice in self._begun else {"role": "assistant"}
        self._begun.add(choice)
        return {"index": choice, "delta": role | delta, "logprobs": None, "finish_reason": None}


def _reason(reader: Reader, finish: str) -> str:
    return "tool_calls" if reader.called and finish == "stop" else finish


def _logprobs(tokens: Tokens | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    found = [{**_token(token), "top_logprobs": [_token(rival) for rival in token["top"]]} for token in tokens]
    return {"content": found, "refusal": None}


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": token["text"], "logprob": token["logprob"], "bytes": token["bytes"]}
