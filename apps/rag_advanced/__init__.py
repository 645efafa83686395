"""Advanced RAG: expand the question, search for each query, rerank, refine the answer passage by passage."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Refined, answer

__all__ = ["PROGRAM", "Refined", "answer", "prepare"]

PROGRAM = answer
