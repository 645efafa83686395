"""Prompt text with its provenance: what decides whether a control token may be written in it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TextPiece"]


class TextPiece(NamedTuple):
    """A run of prompt text.

    In *trusted* text (what a prompt template itself writes) the text of a control token, say `<|end|>`, is
    that token. In all other text (what users, tools, retrieval or a model wrote) it is read letter by letter.
    """

    text: str
    trusted: bool = False
