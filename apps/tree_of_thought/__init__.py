"""Solve a problem by searching among lines of thought."""

from __future__ import annotations

from .program import solve

__all__ = ["PROGRAM", "solve"]

PROGRAM = solve
