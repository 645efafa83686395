"""Retrieval-augmented generation: search, answer with citations."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import answer, cited_answer

__all__ = ["PROGRAM", "answer", "cited_answer", "prepare"]

PROGRAM = answer
