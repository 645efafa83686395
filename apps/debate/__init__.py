"""Debaters answer, hear each other, and answer again."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import debate

__all__ = ["PROGRAM", "debate", "prepare"]

PROGRAM = debate
