"""Conversations as prompts: rendered by the model's own chat template, with tools and tool calls.

The template gets the whole conversation at once, so that what it does with a message (strips it, drops its
thoughts) is what its authors meant. Only what a client spells like a control token is kept from it: that
comes back as a slot, and what fills a slot is never trusted.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import jinja2

from weft.graph.prompt import Message, Part, Slot
from weft.proto import worker_pb2
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.llm.template_engine import TemplateRefusal, compile_template

from .bodies import MessageBody, ToolBody
from .errors import ApiError
from .toolless import CALL_BEGIN, with_tools_described

__all__ = ["Prompt", "chat_prompt"]

_CACHED: Final = 64


@dataclass(frozen=True)
class Prompt:
    """A prompt as a message of a graph, and the texts that fill its slots; or as token ids."""

    message: Message
    slots: Mapping[str, str] = field(default_factory=dict)
    ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, given: str | tuple[int, ...]) -> Prompt:
        """A text that no template touches, which may spell control tokens; or tokens of the model."""
        return cls(Message("raw", (given,))) if isinstance(given, str) else cls(Message("raw", ()), ids=given)

    @property
    def messages(self) -> tuple[Message, ...]:
        """What is said in words."""
        return () if self.ids else (self.message,)

    def followed_by(self, text: str) -> Prompt:
        """The same prompt with text at its end."""
        return Prompt(Message("raw", (*self.message.parts, text)), self.slots)


def chat_prompt(
    model: str,
    llm: worker_pb2.LlmInfo,
    messages: Sequence[MessageBody],
    tools: Sequence[ToolBody] = (),
    variables: Mapping[str, Any] | None = None,
    *,
    calling: bool = False,
) -> Prompt:
    """The prompt for the assistant's next message; for a call of a tool if it is `calling`.

    `variables`: of the template, besides its usual ones. Raises ApiError in the template's own words if it
    refuses.
    """
    if not llm.chat_template:
        raise ApiError(
            400,
            f"model {model!r} has no chat template, so it cannot hold a conversation; "
            "send a text to /v1/completions",
            param="model",
        )
    template = _template(llm.chat_template)
    turns = [_turn(message) for message in messages]
    if tools or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns):
        listed = [tool.model_dump(exclude={"function": {"strict"}}) for tool in tools]
        if not _knows_tools(template.source):
            turns, listed = with_tools_described(turns, listed), []
    else:
        listed = []
    shield = _Shield(llm.control_tokens)
    text = _rendered(model, template, {
        **shield.over(variables or {}),
        "messages": shield.over(turns),
        "tools": shield.over(listed) or None,
        "documents": None,
        "add_generation_prompt": True,
    })  # fmt: skip
    prompt = shield.lifted(text)
    begins_call = calling and (CALL_BEGIN in template.source or not _knows_tools(template.source))
    return prompt.followed_by(f"{CALL_BEGIN}\n") if begins_call else prompt


def _turn(message: MessageBody) -> dict[str, Any]:
    """A message as templates know them."""
    turn: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.content or message.refusal,
    }
    for name in ("name", "tool_call_id", "reasoning_content"):
        if getattr(message, name):
            turn[name] = getattr(message, name)
    if message.tool_calls:
        turn["tool_calls"] = [call.model_dump(exclude={"index"}) for call in message.tool_calls]
    return turn


def _knows_tools(source: str) -> bool:
    return re.search(r"\btools\b", source) is not None


@lru_cache(_CACHED)
def _template(text: str) -> ChatTemplate:
    return ChatTemplate.from_json(text)


def _rendered(model: str, template: ChatTemplate, variables: Mapping[str, Any]) -> str:
    try:
        return compile_template(template.source)(**{**template.tokens, **variables})
    except TemplateRefusal as problem:
        message = f"the chat template of model {model!r} refuses: {problem}"
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as problem:
        message = f"the chat template of model {model!r} fails: {problem}"
    raise ApiError(400, message, param="messages")


class _Shield:
    """Stands between control tokens that a client spells and the template: marks in their place."""

    def __init__(self, control_tokens: Collection[str]) -> None:
        self._nonce = secrets.token_hex(16)
        self._spelled: list[str] = []
        self._pattern = _alternatives(tuple(control_tokens))

    def over(self, value: Any) -> Any:
        """The same data with marks."""
        match value:
            case str():
                return self._pattern.sub(self._mark, value)
            case Mapping():
                return {self.over(key): self.over(inner) for key, inner in value.items()}
            case list():
                return [self.over(inner) for inner in value]
            case _:
                return value

    def lifted(self, text: str) -> Prompt:
        """The rendered text, with slots in place of the marks."""
        parts: list[Part] = []
        slots: dict[str, str] = {}
        for index, piece in enumerate(re.split(f"{self._nonce}_([0-9]+)_", text)):
            if index % 2:
                name = f"spelled_{index // 2}"
                slots[name] = self._spelled[int(piece)]
                parts.append(Slot(name))
            elif piece:
                parts.append(piece)
        return Prompt(Message("raw", tuple(parts)), slots)

    def _mark(self, match: re.Match[str]) -> str:
        self._spelled.append(match[0])
        return f"{self._nonce}_{len(self._spelled) - 1}_"


@lru_cache(_CACHED)
def _alternatives(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
