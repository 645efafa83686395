"""Write, criticize, revise."""

from __future__ import annotations

from .program import reflect

__all__ = ["PROGRAM", "reflect"]

PROGRAM = reflect
