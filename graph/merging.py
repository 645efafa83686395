"""Making one result of those of several stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .errors import EvaluationError
from .ops.optimized import Merge
from .values import EFFECT, Datum, Json, VectorsValue, plain

__all__ = ["first_of_each", "merge"]


def merge(op: Merge, args: Mapping[str, Datum]) -> tuple[Datum, ...]:
    """What the stages would have given as one. Raises EvaluationError."""
    stages = [args[name] for name in sorted((n for n in args if n.isdecimal()), key=int)]
    match op.rule:
        case "vectors":
            return (_vectors(stages),)
        case "passages":
            return (Json(first_of_each(_passages(stages))),)
        case "top_k":
            return (Json(_best(_passages(stages), plain(args["k"]))),)
        case "reports":
            return Json(_report([plain(stage) for stage in stages])), EFFECT


def _vectors(stages: list[Datum]) -> VectorsValue:
    arrays = [stage.array for stage in stages if isinstance(stage, VectorsValue)]
    filled = [array for array in arrays if len(array)]
    if not filled:
        return VectorsValue(arrays[0] if arrays else np.zeros((0, 0), np.float32))
    return VectorsValue(np.concatenate(filled))


def _passages(stages: list[Datum]) -> Iterable[dict[str, Any]]:
    for stage in stages:
        found = plain(stage)
        if not isinstance(found, list):
            raise EvaluationError(f"a list of passages is needed, not {type(found).__name__}")
        yield from found


def first_of_each(passages: Iterable[Any]) -> list[Any]:
    """Of the passages with one id only the first."""
    first: dict[str, dict[str, Any]] = {}
    for passage in passages:
        first.setdefault(passage["id"], passage)
    return list(first.values())


def _best(passages: Iterable[dict[str, Any]], k: int) -> list[dict[str, Any]]:
    return sorted(first_of_each(passages), key=lambda passage: -passage["score"])[:k]


def _report(stages: list[dict[str, Any]]) -> dict[str, Any]:
    counts = ("passages_added", "passages_replaced")
    return {name: sum(stage[name] for stage in stages) for name in counts} | {
        "version": stages[-1]["version"]
    }
