"""An outline first, then all points side by side."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Point, article

__all__ = ["PROGRAM", "Point", "article", "prepare"]

PROGRAM = article
