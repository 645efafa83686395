"""Fill a pydantic model from a text."""

from __future__ import annotations

from .program import Company, extract

__all__ = ["PROGRAM", "Company", "extract"]

PROGRAM = extract
