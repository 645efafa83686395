"""Plots as inline SVG: lines over two axes, and bars in groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

__all__ = ["COLOURS", "bars", "cdf", "legend", "lines"]

COLOURS: Final = ("#0b6e99", "#b3541e", "#4d8b31", "#8c4a9e", "#8a8a00", "#7a7a7a", "#c23b5a")
"""Of the systems, in their order."""

_WIDTH: Final = 420
_HEIGHT: Final = 240
_LEFT: Final = 52
_BOTTOM: Final = 38
_TOP: Final = 26
_TOPS: Final = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10, 12)

Points = Sequence[tuple[float, float]]


def lines(title: str, x: str, y: str, series: Mapping[str, Points], colours: Mapping[str, str]) -> str:
    """A line with marks for each series. Both axes begin at zero."""
    points = [point for found in series.values() for point in found]
    if not points:
        return ""
    right, top = _round(max(px for px, _ in points)), _round(max(py for _, py in points))
    drawn = [
        _line([(_across(px, right), _up(py, top)) for px, py in found], colours[name], name)
        for name, found in series.items()
    ]
    return _framed(title, x, y, _ticks(right, top), drawn)


def cdf(title: str, x: str, series: Mapping[str, Sequence[float]], colours: Mapping[str, str]) -> str:
    """The share of values up to each one."""
    steps = {
        name: [(value, (place + 1) / len(found)) for place, value in enumerate(sorted(found))]
        for name, found in series.items()
    }
    return lines(title, x, "share", steps, colours)


def bars(
    title: str, y: str, groups: Mapping[str, Mapping[str, float]], colours: Mapping[str, str], *, width: int
) -> str:
    """A group of bars for each name, from zero to one."""
    each = (width - _LEFT - 10) / max(1, len(groups))
    drawn: list[str] = []
    for place, (group, values) in enumerate(groups.items()):
        bar = each * 0.8 / max(1, len(values))
        left = _LEFT + place * each + each * 0.1
        for number, (name, value) in enumerate(values.items()):
            top = _up(value, 1.0)
            drawn.append(
                f'<rect x="{left + number * bar:.1f}" y="{top:.1f}" width="{bar:.1f}" '
                f'height="{_up(0, 1) - top:.1f}" fill="{colours[name]}">'
                f"<title>{escape(f'{group}, {name}: {value:.0%}')}</title></rect>"
            )
        middle, foot = left + each * 0.4, _HEIGHT - _BOTTOM + 12
        drawn.append(
            f'<text x="{middle:.1f}" y="{foot}" text-anchor="end" '
            f'transform="rotate(-35 {middle:.1f} {foot})">{escape(group)}</text>'
        )
    ticks = [_tick_up(value, 1.0, f"{value:.0%}") for value in (0, 0.25, 0.5, 0.75, 1)]
    return _framed(title, "", y, ticks, drawn, width=width, height=_HEIGHT + 70)


def legend(colours: Mapping[str, str]) -> str:
    """What the colours mean."""
    marks = (
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in colours.items()
    )
    return f'<p class="legend">{"".join(marks)}</p>'


def _line(points: Points, colour: str, name: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points)
    return (
        f'<g><title>{escape(name)}</title><polyline points="{path}" fill="none" stroke="{colour}" '
        f'stroke-width="1.8"/>{marks}</g>'
    )


def _framed(
    title: str,
    x: str,
    y: str,
    ticks: Sequence[str],
    drawn: Sequence[str],
    *,
    width: int = _WIDTH,
    height: int = _HEIGHT,
) -> str:
    floor = _HEIGHT - _BOTTOM
    axes = f'<path d="M{_LEFT} {_TOP}V{floor}H{width - 10}" fill="none" stroke="currentColor" opacity=".5"/>'
    words = (
        f'<text x="{_LEFT}" y="14" class="title">{escape(title)}</text>'
        f'<text x="{width - 10}" y="{_HEIGHT - 6}" text-anchor="end">{escape(x)}</text>'
        f'<text x="12" y="{floor}" transform="rotate(-90 12 {floor})">{escape(y)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{axes}{"".join(ticks)}{"".join(drawn)}{words}</svg>'
    )


def _ticks(right: float, top: float) -> list[str]:
    shares = (0, 0.25, 0.5, 0.75, 1)
    floor = _HEIGHT - _BOTTOM
    below = [
        f'<text x="{_across(share * right, right):.1f}" y="{floor + 13}" text-anchor="middle">'
        f"{_number(share * right)}</text>"
        for share in shares
    ]
    return below + [_tick_up(share * top, top, _number(share * top)) for share in shares]


def _tick_up(value: float, top: float, text: str) -> str:
    return f'<text x="{_LEFT - 5}" y="{_up(value, top) + 3:.1f}" text-anchor="end">{text}</text>'


def _across(value: float, right: float) -> float:
    return _LEFT + value / right * (_WIDTH - _LEFT - 14)


def _up(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _BOTTOM - _TOP)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or not value else f"{value:.3g}"


def _round(value: float) -> float:
    """The next number whose quarters, the ticks, are short."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return unit * next(top for top in _TOPS if top * unit >= value)
