"""The request bodies of OpenAI's API, as far as weft serves it.

What is not here is refused by name; `IGNORED` is what changes nothing about an answer.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticKnownError

from .fields import Body, Unsupported

__all__ = [
    "IGNORED",
    "UNSUPPORTED",
    "ChatBody",
    "CompletionBody",
    "EmbeddingBody",
    "FunctionBody",
    "GenerationBody",
    "MessageBody",
    "ResponseFormat",
    "StructuredOutputs",
    "ToolBody",
]

IGNORED: Final = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

_PENALTY: Final = Unsupported("weft draws from the model's own distribution; leave it out, or pass 0", (0,))
_TEXT_ONLY: Final = Unsupported("weft's models read and write text; leave it out", (["text"],))
UNSUPPORTED: Final = {
    "audio": _TEXT_ONLY,
    "best_of": Unsupported("pass `n` and choose among the answers", (1,)),
    "echo": Unsupported("put the prompt before the answer yourself", (False,)),
    "frequency_penalty": _PENALTY,
    "function_call": Unsupported("it is deprecated; pass `tool_choice`"),
    "functions": Unsupported("it is deprecated; pass `tools`"),
    "logit_bias": Unsupported("leave it out; to constrain the answer pass `response_format`", ({},)),
    "min_tokens": Unsupported("for a text of exact length pass `ignore_eos` and `max_tokens`", (0,)),
    "modalities": _TEXT_ONLY,
    "prediction": Unsupported("leave it out: it would change only the speed"),
    "presence_penalty": _PENALTY,
    "reasoning_effort": Unsupported(
        "leave it out, or pass what the model's own template knows in `chat_template_kwargs`"
    ),
    "suffix": Unsupported("leave it out: weft's models continue a text, they do not fill it in", ("",)),
    "verbosity": Unsupported("say in a message how long the answer is to be"),
    "web_search_options": Unsupported("serve a program that searches, and name it as the model"),
}


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _content(value: Any, message: ValidationInfo) -> Any:
    """The text of a message's content, which may be given in parts. Only an assistant's may be left out."""
    if value is None:
        if message.data.get("role") == "assistant" and any(map(message.data.get, _IN_PLACE_OF_CONTENT)):
            return ""
        raise PydanticKnownError("missing")
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be a text or a list of text parts")
    return "".join(map(_part, value))


def _part(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return text
        case {"type": str(kind)} if kind != "text":
            raise ValueError(f"parts of type {kind!r} are not supported: weft's models read text")
        case _:
            raise ValueError('a part must be {"type": "text", "text": "…"}')


def _prompts(value: Any) -> Any:
    texts = _texts(value)
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        raise ValueError("must be a text or a list of texts; token ids are not taken: send the text")
    return texts


def _prompts_or_ids(value: Any) -> Any:
    """A text or a list of texts, or the same of prompts as token ids."""
    if isinstance(value, list) and value:
        found = [value] if isinstance(value[0], int) else value
        if all(isinstance(ids, list) and ids and all(map(_is_id, ids)) for ids in found):
            return [tuple(ids) for ids in found]
    texts = _texts(value)
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        raise ValueError("must be a text, a list of texts, token ids, or a list of lists of token ids")
    return texts


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def _object(text: Any) -> Any:
    """The arguments of a call, which travel as JSON text."""
    try:
        value = json.loads(text or "{}") if isinstance(text, str) else text
    except ValueError as problem:
        raise ValueError(f"must be the JSON text of an object: {problem}") from None
    if not isinstance(value, dict):
        raise ValueError("must be the JSON text of an object")
    return value


Texts = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_texts)]
Content = Annotated[str, BeforeValidator(_content)]

_IN_PLACE_OF_CONTENT: Final = ("tool_calls", "refusal", "reasoning_content")


class StreamOptions(Body):
    """What a stream holds besides the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False  # asks for padding against eavesdroppers; none is needed or sent


class FunctionBody(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False


class ToolBody(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionBody


class _CalledBody(Body):
    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_object)]


class _CallBody(Body):
    id: str = ""
    type: Literal["function"] = "function"
    function: _CalledBody
    index: int = 0  # stands in calls that were put together from a stream

    def plain(self) -> dict[str, Any]:
        """The call as JSON data in the form of the API, its arguments a JSON text."""
        arguments = json.dumps(self.function.arguments, ensure_ascii=False)
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": self.type, "function": function}


class MessageBody(Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    name: str = ""
    tool_calls: list[_CallBody] = Field(default_factory=list)
    tool_call_id: str = ""
    reasoning_content: str = ""
    refusal: str = ""
    content: Content = Field(default=None, validate_default=True)  # after what may stand in its place
    annotations: list[Any] = Field(default_factory=list)

    @property
    def speaker(self) -> str:
        """The role by its name in templates and programs, which know no developers."""
        return "system" if self.role == "developer" else self.role

    @property
    def text(self) -> str:
        """What is said, a refusal, too."""
        return self.content or self.refusal

    def plain(self) -> dict[str, Any]:
        """The message as JSON data, as programs take it: with calls, and with which one it answers."""
        message: dict[str, Any] = {"role": self.speaker, "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [call.plain() for call in self.tool_calls]
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        return message


class _JsonSchema(Body):
    name: str = ""
    description: str = ""
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool = True


class ResponseFormat(Body):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class GenerationBody(Body):
    """What chats and completions have in common."""

    model: str
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: float = Field(default=1.0, ge=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Texts = Field(default_factory=list)
    ignore_eos: bool = False
    n: int = Field(default=1, ge=1, le=128)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    cache_salt: str = ""
    """Requests with different ones never share what the model has read."""
    inputs: dict[str, Any] = Field(default_factory=dict)
    """Of a program that serves as the model."""


class ChatBody(GenerationBody):
    """`POST /v1/chat/completions`."""

    messages: list[MessageBody] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    response_format: ResponseFormat = ResponseFormat(type="text")
    tools: list[ToolBody] = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)


class StructuredOutputs(Body):
    """The form that the answer must have, as vLLM has it: one of these."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None


class CompletionBody(GenerationBody):
    """`POST /v1/completions`; the last four fields are as vLLM has them."""

    prompt: Annotated[list[str | tuple[int, ...]], BeforeValidator(_prompts_or_ids)]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool = False
    response_format: ResponseFormat = ResponseFormat(type="text")
    structured_outputs: StructuredOutputs = StructuredOutputs()
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False


class EmbeddingBody(Body):
    """`POST /v1/embeddings`."""

    model: str
    input: Annotated[list[str], BeforeValidator(_prompts)]
    encoding_format: Literal["float", "base64"] = "float"
