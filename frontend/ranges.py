"""Regular expressions for the numbers and the dates of a range."""

from __future__ import annotations

import calendar
import math
from collections.abc import Iterator
from datetime import date
from fractions import Fraction
from typing import NamedTuple

__all__ = ["Bounds", "dates", "decimals"]

_ANY_DIGIT = r"\d"


class Bounds(NamedTuple):
    """The ends of a range of numbers; None is no end."""

    low: Fraction | None = None
    high: Fraction | None = None
    open_low: bool = False
    """Whether `low` itself lies outside."""
    open_high: bool = False

    def scaled(self, places: int, whole: int) -> tuple[int, int]:
        """The least and the greatest of those with so many places and at most `whole` digits before the
        point, times ten to the places.
        """
        most, scale = 10 ** (whole + places) - 1, 10**places
        low, high = -most, most
        if self.low is not None:
            low = max(low, math.floor(self.low * scale) + 1 if self.open_low else math.ceil(self.low * scale))
        if self.high is not None:
            high = min(
                high, math.ceil(self.high * scale) - 1 if self.open_high else math.floor(self.high * scale)
            )
        return low, high


def decimals(bounds: Bounds, places: int, whole: int, *, digits: int | None = None) -> str:
    """The numbers with up to so many places, `whole` digits before the point and `digits` in all.

    No number has zeros that lead, and zero no sign. Empty if there is none.
    """
    forms: list[str] = []
    for count in range(min(places, places if digits is None else digits) + 1):
        before = whole if digits is None else min(whole, digits - count)
        if before or count:  # a 0 counts as a digit unless a point follows
            low, high = bounds.scaled(count, before)
            forms += (f"-{form}" for form in _numbers(max(-high, 1), -low, count))
            forms += _numbers(max(low, 0), high, count)
    return f"(?:{'|'.join(forms)})" if forms else ""


def dates(low: date, high: date) -> str:
    """The days from `low` to `high`, which is no earlier, as ISO 8601 writes them."""
    if low.year == high.year:
        return f"(?:{low.year:04}-(?:{_days(low, high)}))"
    first, last = low.year + 1, high.year - 1
    forms = [f"{low.year:04}-(?:{_days(low, low.replace(month=12, day=31))})"]
    if first <= last:
        years = "|".join("".join(form) for form in _between(f"{first:04}", f"{last:04}"))
        forms.append(f"(?:{years})-(?:{_days(date(1, 1, 1), date(1, 12, 31))})")
    if leap := "|".join(_leap_years(first, last)):
        forms.append(f"(?:{leap})-02-29")
    forms.append(f"{high.year:04}-(?:{_days(high.replace(month=1, day=1), high)})")
    return f"(?:{'|'.join(forms)})"


def _leap_years(first: int, last: int) -> Iterator[str]:
    """Those from `first` to `last`: of whole centuries as patterns, else one by one."""
    begin, end = -(-first // 100), (last + 1) // 100
    listed = [*range(first, last + 1)]
    if begin < end:
        listed = [
            *range(first, 100 * begin),
            *range(100 * begin, 100 * end, 100),
            *range(100 * end, last + 1),
        ]
        centuries = "|".join("".join(form) for form in _between(f"{begin:02}", f"{end - 1:02}"))
        yield f"(?:{centuries})(?:0[48]|[2468][048]|[13579][26])"
    yield from (f"{year:04}" for year in listed if calendar.isleap(year))


def _days(low: date, high: date) -> str:
    """The months and days of a year."""
    months = []
    for month in range(low.month, high.month + 1):
        first = low.day if month == low.month else 1
        last = high.day if month == high.month else calendar.monthrange(low.year, month)[1]
        days = "|".join("".join(form) for form in _between(f"{first:02}", f"{last:02}"))
        months.append(f"{month:02}-(?:{days})")
    return "|".join(months)


def _numbers(low: int, high: int, places: int) -> Iterator[str]:
    """The numbers of 0 or more from `low` to `high`, of which the last digits are places."""
    for width in range(places + 1, max(len(str(high)), places + 1) + 1):
        least = max(low, 10 ** (width - 1) if width > places + 1 else 0)
        most = min(high, 10**width - 1)
        if least <= most:
            for form in _between(f"{least:0{width}}", f"{most:0{width}}"):
                before, after = form[: width - places], form[width - places :]
                yield "".join(before) + (rf"\.{''.join(after)}" if after else "")


def _between(low: str, high: str) -> Iterator[tuple[str, ...]]:
    """The texts of digits from `low` to `high`, of one length: a pattern for each digit."""
    rest = len(low) - 1
    if rest < 0:
        yield ()
    elif low[0] == high[0]:
        for form in _between(low[1:], high[1:]):
            yield (low[0], *form)
    else:
        first, last = int(low[0]), int(high[0])
        if low[1:] != "0" * rest:
            for form in _between(low[1:], "9" * rest):
                yield (low[0], *form)
            first += 1
        full = high[1:] == "9" * rest
        if first <= (last if full else last - 1):
            yield (_digit(first, last if full else last - 1), *[_ANY_DIGIT] * rest)
        if not full:
            for form in _between("0" * rest, high[1:]):
                yield (high[0], *form)


def _digit(first: int, last: int) -> str:
    if (first, last) == (0, 9):
        return _ANY_DIGIT
    return str(first) if first == last else f"[{first}-{last}]"
