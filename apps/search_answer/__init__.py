"""Answer from what a model knows, or else from the web."""

from __future__ import annotations

from .program import answer, web_search

__all__ = ["PROGRAM", "answer", "web_search"]

PROGRAM = answer
