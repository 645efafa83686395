"""Talk about an index, with follow-up questions."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Turn, reply
from .talk import talk

__all__ = ["PROGRAM", "Turn", "prepare", "reply", "talk"]

PROGRAM = reply
