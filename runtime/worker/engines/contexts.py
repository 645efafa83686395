"""KV values as token ids: what a model has read, made longer by prompts and by what it wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from weft.graph.prompt import Fixed, Piece
from weft.graph.values import Datum, KvValue, Segment, TextValue, render, strip
from weft.runtime.llm.context import Context
from weft.runtime.llm.tokenizer import Tokenizer

from ..faults import TaskError
from .base import HeldKv, Operands

__all__ = ["context_of", "read", "tokenize", "write"]

_MANY_CHARACTERS: Final = 100_000  # tokenizing them takes tens of milliseconds


def context_of(kv: Datum | None, tokenizer: Tokenizer, ids: Sequence[int] = ()) -> Context:
    """The context of a KV operand: as it is held here, else from its segments; that of `ids` for None.

    Raises TaskError for a value that is not held here and does not say what it consists of.
    """
    match kv:
        case None:
            return Context.of_ids(tokenizer, ids) if ids else Context.empty(tokenizer)
        case HeldKv():
            return kv.context
        case KvValue(segments=segments) if segments:
            return _restore(segments, tokenizer)
        case KvValue(key=key):
            message = f"the KV value {key!r} is not held by this worker, and its segments were not sent"
            raise TaskError("not_found", message, retryable=True)
        case _:
            raise TaskError("invalid", f"operand 'kv' must be a KV value, not a {type(kv).__name__}")


def read(context: Context, pieces: Iterable[Piece], operands: Operands) -> Context:
    """The context after the model has read `pieces`; what fills the slots is never trusted."""
    for piece in pieces:
        if isinstance(piece, Fixed):
            context = context.append_text(piece.text, trusted=piece.trusted)
        else:
            context = context.append_text(strip(render(operands[piece.name]), piece.strip))
    return context


def write(context: Context, text: TextValue) -> Context:
    """The context after the model has written `text`: its ids, then what they do not cover."""
    return context.append_ids(text.ids).append_text(text.text[text.covered :])


async def tokenize(context: Context) -> None:
    """Give a long context its ids in a thread, so that the work of others is not held up meanwhile."""
    if context.unread > _MANY_CHARACTERS:
        await asyncio.to_thread(context.ids)


def _restore(segments: Iterable[Segment], tokenizer: Tokenizer) -> Context:
    context = Context.empty(tokenizer)
    for segment in segments:
        text = segment.text
        if text.ids and text.tokenizer == tokenizer.fingerprint and not segment.strip:
            context = write(context, text)
        else:
            context = context.append_text(strip(text.text, segment.strip), trusted=segment.trusted)
    return context
