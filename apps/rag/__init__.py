"""Retrieval-augmented generation: expand, search, rerank, answer with citations."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Cited, answer, cited_answer

__all__ = ["PROGRAM", "Cited", "answer", "cited_answer", "prepare"]

PROGRAM = answer
