"""An architect, coders and reviewers write a program together."""

from __future__ import annotations

from .program import File, Written, project

__all__ = ["PROGRAM", "File", "Written", "project"]

PROGRAM = project
