"""RAG that judges its answer, and searches again if it does not hold."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Found, answer

__all__ = ["PROGRAM", "Found", "answer", "prepare"]

PROGRAM = answer
