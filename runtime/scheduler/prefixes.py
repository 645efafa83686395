"""What prompts begin with, told by digests: it is known which share a prefix, not what it says.

A prefix is known by a key that is chained over the blocks of text from the beginning of the prompt, so that
equal keys mean equal beginnings. Short texts are one block each. Long ones are cut at places that depend on
nothing but the offset, so that texts with a common beginning have their first blocks in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from weft.graph.costs import CHARS_PER_TOKEN

__all__ = ["Block", "Boundary", "Content", "FixedContent", "blocks_of", "digest", "extend", "start"]

_BLOCK: Final = 1024  # characters
_DOUBLING: Final = 16  # blocks of one size, before blocks of twice the size follow


class Block(NamedTuple):
    """A piece of a text."""

    digest: int
    tokens: float


class Content(Protocol):
    """What a value adds to a prompt."""

    @property
    def blocks(self) -> Sequence[Block]:
        """Its text from the beginning to the end."""
        ...


class FixedContent(NamedTuple):
    """Content whose blocks are known."""

    blocks: Sequence[Block]


class Boundary(NamedTuple):
    """The prefix of a prompt up to some place: its key, and its length in tokens."""

    key: int
    tokens: float


@lru_cache(4096)
def start(*scope: str) -> Boundary:
    """The empty prefix. Prefixes of different scopes (model, namespace) have nothing in common."""
    return Boundary(digest("\0".join(scope)), 0.0)


def extend(prefix: Boundary, blocks: Sequence[Block]) -> list[Boundary]:
    """The prefixes that end after each of `blocks`, which follow on `prefix`."""
    key, tokens = prefix
    found = []
    for block in blocks:
        key = hash((key, block.digest))  # of integers: the same in every process
        tokens += block.tokens
        found.append(Boundary(key, tokens))
    return found


def blocks_of(text: str) -> tuple[Block, ...]:
    """The blocks of a text; tokens are estimated."""
    return tuple(Block(digest(piece), len(piece) / CHARS_PER_TOKEN) for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    at, size, left = 0, _BLOCK, _DOUBLING
    while at < len(text):
        yield text[at : at + size]
        at += size
        left -= 1
        if not left:
            size, left = size * 2, _DOUBLING


def digest(text: str) -> int:
    """A 64-bit digest."""
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
