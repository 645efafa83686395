"""Summarize a text part by part."""

from __future__ import annotations

from .program import summary

__all__ = ["PROGRAM", "summary"]

PROGRAM = summary
