"""Judge proposed answers by the evidence."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Verdict, judge

__all__ = ["PROGRAM", "Verdict", "judge", "prepare"]

PROGRAM = judge
