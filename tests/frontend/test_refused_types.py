"""Types that no grammar can hold a model to are refused before anything is written."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    Base64Str,
    BaseModel,
    Field,
    HttpUrl,
    Json,
    PastDate,
    UrlConstraints,
)

from weft import gen, program
from weft.frontend.constraint import wanted
from weft.frontend.errors import ProgramError, TraceError
from weft.frontend.faking import fake_model


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Reply(BaseModel):
    rows: Json[list[int]]


class Deep(BaseModel):
    count: int = Field(validation_alias=AliasPath("stats", "count"))


class Either(BaseModel):
    count: int = Field(validation_alias=AliasChoices(AliasPath("stats", "count"), "count"))


class Outer(BaseModel):
    inner: list[Deep]


class Painted(BaseModel):
    colours: list[Literal[Colour.RED, Colour.BLUE]]


def bounded(kind: Any, **limits: Any) -> Any:
    return Annotated[kind, Field(**limits)]


class Meeting(BaseModel):
    begin: Annotated[datetime, Field(ge=datetime(2026, 1, 1))]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Reply, "content of 'rows' .* JSON within a text; take what it says itself"),
        (list[Base64Str], "a text in base64; take a str"),
        (Outer, r"the field 'count' of Deep: its alias 'stats\.count' is a path; take a model"),
        (Painted, r"the field 'colours' of Painted: .*Colour\.RED.*; take Colour, or a Literal of values"),
        (Literal[Colour.RED], r"Colour\.RED from JSON; take Colour"),
        (Meeting, "the bound '2026-01-01T00:00:00' of 'begin' cannot be enforced; remove it and check"),
        (bounded(time, lt=time(12)), "the bound '12:00:00' cannot be enforced"),
        (bounded(timedelta, le=timedelta(days=3)), "the bound 'P3D' cannot be enforced"),
        (bounded(float, gt=0, lt=1e-7), "range from 0 to 1e-07 is too narrow .* take another unit"),
        (bounded(int, ge=10**20), "the bound 100000000000000000000 cannot be enforced, .* 64 bits"),
        (bounded(Decimal, gt=0.05, lt=0.06, decimal_places=1), "no number of 1 places lies within"),
        (bounded(str, pattern="^[a-z]+$", max_length=3), "'maxLength' .* beside a pattern; say it in the"),
        (Annotated[HttpUrl, UrlConstraints(max_length=20)], "'maxLength' .* beside a pattern"),
        (bounded(date, ge=date(2026, 2, 1), lt=date(2026, 2, 1)), "no day lies within the bounds"),
        (dict[Annotated[float, Field(ge=math.inf)], str], "no number lies beyond inf"),
        (bounded(Decimal, le=Decimal("-Infinity"), decimal_places=2), "no number lies beyond -Infinity"),
        (set[int], "'uniqueItems' cannot be enforced; take a list instead of a set"),
        (dict[tuple[int, int], str], "a tuple is no key of JSON"),
        (dict[Literal[1, 2], str], "no member of the Literal is a key of JSON"),
        (type[int], "a subclass of int is nothing that JSON has"),
    ],
)
def test_the_type_is_refused_with_its_field_and_a_remedy(kind: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        wanted(kind, None, None)


class Both(BaseModel):
    kind: Literal["and"]


class Neither(BaseModel):
    kind: Literal["not"]


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[Both | Neither, Field(discriminator="kind")],  # tags that are keywords of JSON Schema
        dict[Annotated[float, Field(ge=-math.inf)], int],
        bounded(Decimal, ge=Decimal("-Infinity"), lt=3, decimal_places=2),
    ],
)
def test_what_only_looks_like_it_is_not_refused(kind: Any) -> None:
    assert wanted(kind, None, None).constraint is not None


def test_one_plain_alias_is_enough() -> None:
    assert '"required":["count"]' in str(wanted(Either, None, None).constraint)


class Birth(BaseModel):
    day: PastDate


@program
async def born(text: str) -> str:
    try:
        return str((await gen(text, type=Birth)).day)
    except ProgramError as problem:
        return str(problem)


def test_what_only_the_clock_can_tell_is_asked_of_the_value_and_names_its_field() -> None:
    with fake_model(lambda call: {"day": "9999-12-31"}):
        assert "the value is not Birth: day: date should be in the past, got '9999-12-31'" in born("…")
