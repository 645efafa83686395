"""Durations and places in the source, for people."""

from __future__ import annotations

from pathlib import PurePath

__all__ = ["brief_location", "milliseconds"]


def milliseconds(ms: float) -> str:
    """A duration with as many digits as are of use: 0.05 ms, 3.2 ms, 812 ms, 12.3 s."""
    if ms < 0.005:
        return "<0.01 ms" if ms else "0 ms"
    if ms < 0.095:
        return f"{ms:.2f} ms"
    if ms < 9.95:
        return f"{ms:.1f} ms"
    return f"{ms:.0f} ms" if ms < 9_999.5 else f"{ms / 1e3:.1f} s"


def brief_location(location: str) -> str:
    """The last folder, the file and the line of a place in the source."""
    return "/".join(PurePath(location).parts[-2:])
