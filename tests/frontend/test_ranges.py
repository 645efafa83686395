"""Patterns of ranges: they match what lies within, and nothing else."""

from __future__ import annotations

import calendar
import re
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.frontend.ranges import Bounds, dates, decimals

ENDS = st.none() | st.decimals(-30, 30, places=2).map(Fraction)
DIGITS = st.none() | st.integers(1, 4)


def places_of(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return -exponent


def digits_of(number: Decimal) -> int:
    """How many pydantic counts."""
    return max(len(number.as_tuple().digits), places_of(number))


@settings(max_examples=300, deadline=None)
@given(
    ends=st.tuples(ENDS, ENDS, st.booleans(), st.booleans()),
    places=st.integers(0, 3),
    digits=DIGITS,
    number=st.integers(0, 3).flatmap(lambda exponent: st.decimals(-99, 99, places=exponent)),
)
def test_decimals_within_bounds(
    ends: tuple[Fraction | None, Fraction | None, bool, bool],
    places: int,
    digits: int | None,
    number: Decimal,
) -> None:
    bounds = Bounds(*ends)
    above = bounds.low is None or number > bounds.low or (number == bounds.low and not bounds.open_low)
    below = bounds.high is None or number < bounds.high or (number == bounds.high and not bounds.open_high)
    short = places_of(number) <= places and (digits is None or digits_of(number) <= digits)
    signed = number == 0 and number.is_signed()
    pattern = decimals(bounds, places, 2, digits=digits)
    assert bool(pattern and re.fullmatch(pattern, str(number))) == (above and below and short and not signed)


@settings(max_examples=200, deadline=None)
@given(st.tuples(st.dates(), st.dates()).map(sorted), st.dates())
def test_days_within_bounds(ends: list[date], day: date) -> None:
    low, high = ends
    for near in (day, low, high):
        assert bool(re.fullmatch(dates(low, high), near.isoformat())) == (low <= near <= high)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        *(("2024-02-29", True), ("2000-02-29", True), ("1999-12-31", True)),
        *(("2023-02-29", False), ("2100-02-29", False), ("2024-04-31", False)),
    ],
)
def test_only_days_that_there_are(text: str, is_one: bool) -> None:
    assert bool(re.fullmatch(dates(date(1999, 12, 31), date(2101, 3, 1)), text)) is is_one


@pytest.mark.parametrize(("first", "last"), [(1, 9999), (1896, 2104), (1901, 1999), (2000, 2099)])
def test_leap_years_are_those_of_the_calendar_and_said_in_short(first: int, last: int) -> None:
    pattern = dates(date(first, 1, 1), date(last, 12, 31))
    found = [year for year in range(1, 10_000) if re.fullmatch(pattern, f"{year:04}-02-29")]
    assert found == [year for year in range(first, last + 1) if calendar.isleap(year)]
    assert len(pattern) < 1700
