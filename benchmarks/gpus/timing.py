"""Speeds from the times of tokens, whoever wrote them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["decode_speed", "whole_seconds"]


def decode_speed(clocks: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Tokens a second while all requests write, and the seconds of a step; from the times of their tokens."""
    begin = max(times[0] for times in clocks)
    end = min(times[-1] for times in clocks)
    tokens = sum(begin < at <= end for times in clocks for at in times)
    return tokens / (end - begin), (end - begin) * len(clocks) / tokens


def whole_seconds(clocks: Sequence[Sequence[float]]) -> float:
    """The time of the last token of all."""
    return max(times[-1] for times in clocks)
