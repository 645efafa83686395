"""Summarize the parts of a text side by side, then their summaries."""

from __future__ import annotations

from .program import summary

__all__ = ["PROGRAM", "summary"]

PROGRAM = summary
