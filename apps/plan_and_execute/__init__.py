"""Plan look-ups, make them side by side, conclude."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Finding, Report, report

__all__ = ["PROGRAM", "Finding", "Report", "prepare", "report"]

PROGRAM = report
