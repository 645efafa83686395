"""The value of a KV context: what a model has read so far, as token ids.

Law: the ids of a context are those of tokenizing its whole text at once, however the text was cut into
appends. A tokenizer may join the end of one append with the beginning of the next, so the text since the
last place that no later text can change (`Tokenizer.settled`) is kept and tokenized again; all before it is
final. Ids that a model sampled are final too, and what follows them is tokenized as a continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from .pieces import TextPiece
from .tokenizer import Start, Tokenizer

__all__ = ["Context"]


class _State(NamedTuple):
    """Final ids, and the text after them whose ids are still open."""

    ids: tuple[int, ...]
    pieces: tuple[TextPiece, ...]
    start: Start


class Context:
    """An immutable sequence of token ids, grown by text and by sampled ids.

    A raw prompt begins with the BOS that the tokenizer's post-processor puts before a text; a prompt from a
    chat template (`bos=False`) begins with what the template writes. A trusted text that itself begins with
    the BOS gets no second one in either case.

    Appending is cheap: text is tokenized when `ids` is called first, and a context shares what it has
    tokenized with those that grow from it.
    """

    __slots__ = ("_bos", "_ids", "_state", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, state: _State, bos: bool) -> None:
        self._tokenizer = tokenizer
        self._bos = bos
        self._state = state
        self._ids: tuple[int, ...] | None = None

    @classmethod
    def empty(cls, tokenizer: Tokenizer, *, bos: bool = True) -> Context:
        """Return the context of a model that has read nothing."""
        return cls(tokenizer, _State((), (), Start.PROMPT), bos)

    @classmethod
    def of_ids(cls, tokenizer: Tokenizer, ids: Sequence[int]) -> Context:
        """Return the context of a model that has read these ids; nothing is put before them."""
        return cls(tokenizer, _State(tuple(ids), (), Start.CONTINUATION), bos=False)

    def append_text(self, text: str, *, trusted: bool = False) -> Context:
        """Return this context followed by `text`; only trusted text may write control tokens."""
        if not text:
            return self
        return self.append_pieces((TextPiece(text, trusted),))

    def append_pieces(self, pieces: Sequence[TextPiece]) -> Context:
        """Return this context followed by the texts of `pieces`."""
        state = self._state
        return Context(self._tokenizer, state._replace(pieces=(*state.pieces, *pieces)), self._bos)

    def append_ids(self, ids: Sequence[int]) -> Context:
        """Return this context followed by ids that its model sampled; the text before them becomes final."""
        if not ids:
            return self
        return Context(self._tokenizer, _State((*self.ids(), *ids), (), Start.CONTINUATION), self._bos)

    def ids(self) -> tuple[int, ...]:
        """Return the token ids."""
        if self._ids is None:
            self._settle()
            state = self._state
            final = state.ids or self._prefix(state)
            self._ids = (*final, *self._tokenizer.encode_pieces(state.pieces, state.start))
        return self._ids

    @property
    def unread(self) -> int:
        """The characters that have no ids yet; most contexts are read when their ids are first asked for."""
        return 0 if self._ids is not None else sum(len(piece.text) for piece in self._state.pieces)

    def settled_ids(self) -> tuple[int, ...]:
        """Return the leading ids that nothing appended later can change."""
        self._settle()
        state = self._state
        if not state.pieces:
            return self.ids()
        return state.ids

    def ends_like(self, other: Context) -> bool:
        """Whether what follows `settled_ids`, now and after any further text, has the same ids in both."""
        self._settle()
        other._settle()
        mine, its = self._state, other._state
        return mine[1:] == its[1:] and bool(mine.ids) == bool(its.ids)

    def _settle(self) -> None:
        """Make final what can be; the context stays the same value."""
        state = self._state
        count, start = self._tokenizer.settled(state.pieces)
        if count:
            head, rest = _split(state.pieces, count)
            ids = self._tokenizer.encode_pieces(head, state.start)
            self._state = _State((*(state.ids or self._prefix(state)), *ids), rest, start)

    def _prefix(self, state: _State) -> tuple[int, ...]:
        """Return the BOS ids that stand before the text of a context without any final ids."""
        if not self._bos or state.start is not Start.PROMPT:
            return ()
        lead = "".join(piece.text for piece in takewhile(lambda piece: piece.trusted, state.pieces))
        prefix = self._tokenizer.bos_prefix
        written = bool(lead) and tuple(self._tokenizer.encode(lead, bos=False)[: len(prefix)]) == prefix
        return () if written else prefix

    def __len__(self) -> int:
        return len(self.ids())


def _split(pieces: Sequence[TextPiece], count: int) -> tuple[tuple[TextPiece, ...], tuple[TextPiece, ...]]:
    """Cut `pieces` after `count` characters."""
    head: list[TextPiece] = []
    for index, piece in enumerate(pieces):
        if count <= len(piece.text):
            head.append(piece._replace(text=piece.text[:count]))
            rest = piece._replace(text=piece.text[count:])
            return tuple(head), (rest, *pieces[index + 1 :])
        head.append(piece)
        count -= len(piece.text)
    return tuple(head), ()
