"""Answer multiple-choice questions after some examples."""

from __future__ import annotations

from .program import Example, choose

__all__ = ["PROGRAM", "Example", "choose"]

PROGRAM = choose
