"""Chat templates over messages whose contents are partly unknown.

A conversation is rendered once with marks in place of its contents, and the result is cut at the marks: what
is between them is the template's own text. Only that is trusted to hold control tokens; what a message says
is not, whoever wrote it (see `TextPiece`).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jinja2

from .errors import RequestError
from .pieces import TextPiece
from .shield import Shield
from .template_engine import TemplateRefusal, compile_template
from .tokenizer_files import read_object, token_text

__all__ = ["ChatMessage", "ChatTemplate", "ChatTemplateError", "Hole", "HolePiece", "Piece"]

# Ends of a probe as a template may leave them: whole, stripped of newlines, stripped of whitespace; or whole
# in the string of a JSON text.
_LEFT_EDGES = ("\n\u2005", "\u2005", "", "\\n\u2005")
_RIGHT_EDGES = ("\u2006\n", "\u2006", "", "\u2006\\n")
_ESCAPED = "\\"
_STRIPPED = ("", "\n", None, _ESCAPED)
_MIDDLE = "\"'<&>\\\n"  # what is probed for being escaped
_MIDDLE_ESCAPED = json.dumps(_MIDDLE)[1:-1]
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplateError(RequestError):
    """A conversation that a chat template cannot write, or not with contents to be filled in later."""


class Hole(NamedTuple):
    """A part of a message whose text is not known yet."""

    name: str


class ChatMessage(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: tuple[str | TextPiece | Hole, ...]
    fields: Mapping[str, Any] = MappingProxyType({})
    """What else a template may ask for, such as `tool_calls`."""


class HolePiece(NamedTuple):
    """A place in a rendered prompt for the text of the hole `name`."""

    name: str
    strip: Literal["", "left", "right", "both", "escaped"] = ""
    """At which ends the template strips the text; or that it writes it into the string of a JSON text."""
    characters: str | None = None
    """Which characters it strips, as in `str.strip`; None: all whitespace."""


Piece = TextPiece | HolePiece


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template with the special tokens that it writes."""

    name: str
    """Where it comes from, for messages."""
    source: str
    tokens: dict[str, Any] = field(default_factory=dict)
    """`bos_token`, `eos_token` and others, as the template's variables."""

    @classmethod
    def from_folder(cls, path: str | Path) -> ChatTemplate | None:
        """Read the template of a Hugging Face model folder; None if it has none.

        Raises:
            TokenizerError: a configuration file is malformed.
        """
        folder = Path(path)
        config = read_object(folder / "special_tokens_map.json") | read_object(
            folder / "tokenizer_config.json"
        )
        file = folder / "chat_template.jinja"
        source = file.read_text("utf-8") if file.is_file() else _default(config.get("chat_template"))
        tokens: dict[str, Any] = {key: text for key in _TOKENS if (text := token_text(config.get(key)))}
        extra = [token_text(token) for token in config.get("additional_special_tokens") or []]
        if extra:
            tokens["additional_special_tokens"] = extra
        return None if source is None else cls(str(folder), source, tokens)

    def to_json(self) -> str:
        """Return the template as JSON text."""
        return json.dumps({"name": self.name, "source": self.source, "tokens": self.tokens})

    @classmethod
    def from_json(cls, text: str) -> ChatTemplate:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def render(
        self,
        messages: Sequence[ChatMessage],
        add_generation_prompt: bool,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        control_tokens: Collection[str] = (),
    ) -> tuple[Piece, ...]:
        """Write a conversation, with a `HolePiece` for each hole; the pieces come in the order of the prompt.

        With the holes filled in, the text is that of transformers' `apply_chat_template`, provided that a
        hole whose end is stripped is not empty. A prompt begins with the BOS exactly if the template writes
        it. `tools` are functions as in OpenAI's API; what they and the fields of messages spell like one of
        the `control_tokens` is none. A message without content, or whose content gives way to its calls, may
        be missing.

        Raises:
            ChatTemplateError: the template refuses the conversation (its own words are quoted), is itself
                malformed, or changes a message's content in a way that cannot be written with holes.
        """
        shield = Shield(control_tokens)
        said = [message._replace(fields=shield.over(message.fields)) for message in messages]
        draft = _Draft(self, said, shield.over([*tools]) or None, add_generation_prompt)
        return _merged(_lifted(shield, draft.pieces()))

    def apply(self, turns: Sequence[Mapping[str, Any]], prompt: bool, tools: Any) -> str:
        """Write a conversation whose contents are all known. Raises ChatTemplateError."""
        try:
            render = compile_template(self.source)
            return render(
                messages=turns, add_generation_prompt=prompt, tools=tools, documents=None, **self.tokens
            )
        except TemplateRefusal as error:
            raise ChatTemplateError(f"the chat template of {self.name!r} refuses: {error}") from error
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise ChatTemplateError(f"the chat template of {self.name!r} fails: {error}") from error


@dataclass(frozen=True)
class _Draft:
    """A conversation that a template is to write."""

    template: ChatTemplate
    messages: Sequence[ChatMessage]
    tools: Any
    prompt: bool

    def pieces(self) -> list[Piece]:
        """The prompt, checked. Raises ChatTemplateError."""
        marks = [secrets.token_hex(16) for _ in self.messages]
        plain = [mark + _MIDDLE + mark for mark in marks]
        edged = [_LEFT_EDGES[0] + text + _RIGHT_EDGES[0] for text in plain]
        pieces = self._fill(self._split(plain, marks), self._split(edged, marks), marks)
        self._verify(pieces)
        return pieces

    def _apply(self, contents: Sequence[str]) -> str:
        turns = [
            {**m.fields, "role": m.role, "content": text if m.content else ""}
            for m, text in zip(self.messages, contents, strict=True)
        ]
        return self.template.apply(turns, self.prompt, self.tools)

    def _split(self, contents: Sequence[str], marks: Sequence[str]) -> list[str]:
        """Split at the marked contents: the template's text, a mark, the content's middle, and so on."""
        rendered = self._apply(contents)
        middles = f"{re.escape(_MIDDLE)}|{re.escape(_MIDDLE_ESCAPED)}"
        parts = re.split(f"({'|'.join(marks) or '(?!)'})({middles})\\1", rendered)
        for message, mark in zip(self.messages, marks, strict=True):
            found = parts[1::3].count(mark)
            may_be_missing = not message.content or "tool_calls" in message.fields
            if rendered.count(mark) != 2 * found or not (found == 1 or (found == 0 and may_be_missing)):
                raise self._unrepresentable(message.role)
        return parts

    def _fill(self, between: list[str], probed: list[str], marks: Sequence[str]) -> list[Piece]:
        """Put the messages' contents in place of their marks, stripped as the probes were."""
        pieces: list[Piece] = [TextPiece(between[0], trusted=True)]
        strips = [_strips(*texts) for texts in zip(between[::3], probed[::3], strict=True)]
        contents = zip(pairwise(strips), between[1::3], between[2::3], between[3::3], strict=True)
        for (before, after), mark, middle, text in contents:
            message = self.messages[marks.index(mark)]
            escaped = middle != _MIDDLE
            if (
                before is None
                or after is None
                or not escaped == (before[1] == _ESCAPED) == (after[0] == _ESCAPED)
            ):
                raise self._unrepresentable(message.role)
            pieces += _escaped(message.content) if escaped else _filled(message.content, before[1], after[0])
            pieces.append(TextPiece(text, trusted=True))
        return pieces

    def _unrepresentable(self, role: str) -> ChatTemplateError:
        return ChatTemplateError(
            f"the chat template of {self.template.name!r} drops, repeats or rewrites the content of a "
            f"{role!r} message; write the prompt without the template, or word this message differently"
        )

    def _verify(self, pieces: Sequence[Piece]) -> None:
        """Check that the pieces, holes filled, are what the template writes for the filled messages."""
        names = {part.name for message in self.messages for part in message.content if isinstance(part, Hole)}
        values = {name: secrets.token_hex(16) for name in sorted(names)}
        contents = ["".join(_said(part, values) for part in m.content) for m in self.messages]
        written = "".join(p.text if isinstance(p, TextPiece) else values[p.name] for p in pieces)
        if self._apply(contents) == written:
            return
        raise self._unrepresentable(self._culprit(contents))

    def _culprit(self, contents: Sequence[str]) -> str:
        """Find the role whose content, rather than a neutral one, the template treats specially."""
        neutral = [secrets.token_hex(16) for _ in self.messages]
        base = self._apply(neutral)
        for index, message in enumerate(self.messages):
            tried = [*neutral[:index], contents[index], *neutral[index + 1 :]]
            if self._apply(tried) != base.replace(neutral[index], contents[index]):
                return message.role
        return self.messages[-1].role


def _default(templates: object) -> str | None:
    """Choose among named templates: the one called default."""
    if isinstance(templates, list):
        named = {entry["name"]: entry["template"] for entry in templates}
        templates = named.get("default")
    return templates if isinstance(templates, str) else None


def _strips(between: str, probed: str) -> tuple[str | None, str | None] | None:
    """Read off what was stripped from the edges around a text of the template: before it, and after it.

    "" for nothing, "\\n" for newlines, None for all whitespace, or that all is escaped; no pair if the text
    itself changed.
    """
    for right, left in product(range(len(_STRIPPED)), repeat=2):
        if probed == _RIGHT_EDGES[right] + between + _LEFT_EDGES[left]:
            return _STRIPPED[right], _STRIPPED[left]
    return None


def _said(part: str | TextPiece | Hole, values: Mapping[str, str]) -> str:
    """A part of a content as text."""
    if isinstance(part, Hole):
        return values[part.name]
    return part.text if isinstance(part, TextPiece) else part


def _escaped(content: Sequence[str | TextPiece | Hole]) -> list[Piece]:
    """The pieces of a content that stands in the string of a JSON text."""
    return [
        HolePiece(part.name, "escaped")
        if isinstance(part, Hole)
        else TextPiece(json.dumps(_said(part, {}), ensure_ascii=False)[1:-1])
        for part in content
    ]


def _filled(content: Sequence[str | TextPiece | Hole], left: str | None, right: str | None) -> list[Piece]:
    """Return the pieces of a content that is stripped of these characters at its ends."""
    pieces: list[Piece] = [
        HolePiece(part.name)
        if isinstance(part, Hole)
        else part
        if isinstance(part, TextPiece)
        else TextPiece(part)
        for part in content
    ]
    if left != "":
        _strip_end(pieces, range(len(pieces)), "left", left)
    if right != "":
        _strip_end(pieces, range(len(pieces) - 1, -1, -1), "right", right)
    return pieces


def _strip_end(
    pieces: list[Piece], inwards: range, side: Literal["left", "right"], characters: str | None
) -> None:
    """Strip constants from one end inwards, up to the first that keeps something or the first hole."""
    for index in inwards:
        piece = pieces[index]
        if isinstance(piece, HolePiece):
            pieces[index] = HolePiece(piece.name, "both" if piece.strip else side, characters)
            return
        kept = piece.text.lstrip(characters) if side == "left" else piece.text.rstrip(characters)
        pieces[index] = piece._replace(text=kept)
        if kept:
            return


def _lifted(shield: Shield, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with what was spelled like control tokens as the plain text that it is."""
    lifted: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, TextPiece) and piece.trusted:
            texts = enumerate(shield.cut(piece.text))
            lifted += [TextPiece(text, trusted=index % 2 == 0) for index, text in texts]
        else:
            lifted.append(piece)
    return lifted


def _merged(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Join neighbouring texts of equal trust and leave empty ones out."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if isinstance(piece, TextPiece) and isinstance(last, TextPiece) and last.trusted == piece.trusted:
            merged[-1] = TextPiece(last.text + piece.text, piece.trusted)
        elif not isinstance(piece, TextPiece) or piece.text:
            merged.append(piece)
    return tuple(merged)
