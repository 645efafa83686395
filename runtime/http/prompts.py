"""Conversations as prompts: rendered by the model's own chat template, with tools and tool calls.

The template gets the whole conversation at once, so that what it does with a message (strips it, drops its
thoughts) is what its authors meant. Only what a client spells like a control token is kept from it: that
comes back as a slot, and what fills a slot is never trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import jinja2

from weft.graph.prompt import Message, Part, Slot
from weft.proto import worker_pb2
from weft.runtime.calling.reading import CALL_BEGIN
from weft.runtime.llm.chat import ChatMessage, ChatTemplate
from weft.runtime.llm.shield import Shield
from weft.runtime.llm.template_engine import TemplateRefusal, compile_template
from weft.runtime.llm.toolless import begins_calls, knows_tools, with_tools_described

from .bodies import MessageBody, ToolBody
from .errors import ApiError

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
    if tools or any("tool_calls" in turn.fields or turn.role == "tool" for turn in turns):
        listed = [tool.model_dump(exclude={"function": {"strict"}}) for tool in tools]
        if not knows_tools(template.source):
            turns, listed = with_tools_described(turns, listed), []
    else:
        listed = []
    shield = Shield(llm.control_tokens)
    text = _rendered(model, template, {
        **shield.over(variables or {}),
        "messages": shield.over([_variables(turn) for turn in turns]),
        "tools": shield.over(listed) or None,
        "documents": None,
        "add_generation_prompt": True,
    })  # fmt: skip
    prompt = _lifted(shield, text)
    return prompt.followed_by(f"{CALL_BEGIN}\n") if calling and begins_calls(template.source) else prompt


def _turn(message: MessageBody) -> ChatMessage:
    """A message as templates know them."""
    fields: dict[str, Any] = {
        name: value
        for name in ("name", "tool_call_id", "reasoning_content")
        if (value := getattr(message, name))
    }
    if message.tool_calls:
        fields["tool_calls"] = [call.model_dump(exclude={"index"}) for call in message.tool_calls]
    return ChatMessage(message.speaker, (message.text,), fields)


def _variables(turn: ChatMessage) -> dict[str, Any]:
    return {"role": turn.role, "content": "".join(map(str, turn.content)), **turn.fields}


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


def _lifted(shield: Shield, text: str) -> Prompt:
    """The rendered text, with slots in place of what was spelled like control tokens."""
    parts: list[Part] = []
    slots: dict[str, str] = {}
    for index, piece in enumerate(shield.cut(text)):
        if index % 2:
            name = f"spelled_{index // 2}"
            slots[name] = piece
            parts.append(Slot(name))
        elif piece:
            parts.append(piece)
    return Prompt(Message("raw", tuple(parts)), slots)
