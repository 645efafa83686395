"""Questions about the user's own files, answered with the names of the files."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Sourced, answer

__all__ = ["PROGRAM", "Sourced", "answer", "prepare"]

PROGRAM = answer
