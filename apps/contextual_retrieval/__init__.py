"""Passages that are indexed behind a line on what they are about."""

from __future__ import annotations

from .prepare import prepare
from .program import Part, answer, fill, parts_of

__all__ = ["PROGRAM", "Part", "answer", "fill", "parts_of", "prepare"]

PROGRAM = answer
