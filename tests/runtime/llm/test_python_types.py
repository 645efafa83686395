"""What is written by the schema of a Python type is read by the type."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from enum import IntEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    UUID1,
    UUID4,
    Base64Bytes,
    Base64UrlBytes,
    BaseModel,
    Field,
    FileUrl,
    FiniteFloat,
    HttpUrl,
    IPvAnyAddress,
    IPvAnyInterface,
    IPvAnyNetwork,
    KafkaDsn,
    MongoDsn,
    NaiveDatetime,
    PostgresDsn,
    RedisDsn,
    condecimal,
)

from weft.frontend.pytypes import py_type
from weft.graph.sampling import JsonSchema
from weft.runtime.llm.grammar import GrammarCompiler
from weft.runtime.llm.tokenizer import Tokenizer

from .writing import follow, read_back


def schema(kind: Any) -> JsonSchema:
    return JsonSchema(py_type(kind).schema("validation"))


class Rank(IntEnum):
    LOW = 1
    HIGH = 2


def positive(**limits: Any) -> Any:
    return Annotated[Decimal, Field(gt=0, **limits)]


def bounded(kind: Any, **limits: Any) -> Any:
    return Annotated[kind, Field(**limits)]


@pytest.mark.parametrize("limit", [64, 250])
@pytest.mark.parametrize(
    "kind",
    [
        *(Decimal, positive(max_digits=4, decimal_places=2), positive(max_digits=3), positive(lt=1)),
        *(condecimal(ge=0, decimal_places=2), condecimal(max_digits=3, decimal_places=3)),
        *(dict[int, Decimal], dict[Annotated[int, Field(ge=0)], int], dict[Decimal, str], dict[bool, str]),
        *(dict[Rank, int], dict[date, int], list[timedelta], list[NaiveDatetime], list[UUID1 | UUID4]),
        *(bounded(Decimal, ge=0, lt=1, decimal_places=2), bounded(Decimal, gt=-1, le=100, max_digits=4)),
        *(bounded(Decimal, gt=1, le=100, decimal_places=2, max_digits=4), bounded(Decimal, lt=0)),
        *(bounded(date, ge=date(2024, 2, 28), lt=date(2028, 3, 1)), bounded(date, gt=date(2026, 11, 1))),
        *(dict[Annotated[int, Field(le=5)], int], dict[Annotated[int, Field(gt=9, lt=30)], int]),
        dict[Literal["a", 1], int],
        *(IPv4Network, IPv6Network, IPv4Interface, IPv6Interface),
        *(IPvAnyAddress, IPvAnyNetwork, IPvAnyInterface, list[IPv6Address | IPv4Address]),
        *(Base64Bytes, Base64UrlBytes, complex, bounded(bytes, max_length=5), bounded(bytes, min_length=2)),
        *(PostgresDsn, MongoDsn, KafkaDsn, FiniteFloat, bounded(FiniteFloat, ge=0), dict[str, FiniteFloat]),
    ],
)
def test_what_pydantic_reads_and_json_has_no_type_for(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], kind: Any, limit: int
) -> None:
    grammar = compilers["reference"].compile(schema(kind), limit)
    read_back(tokenizers["reference"], grammar, kind, 30)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Decimal, '"-12345.678"'),
        (positive(max_digits=4, decimal_places=2), '"0.05"'),
        (condecimal(ge=0), '"0"'),
        (dict[int, str], '{"-2024": "a"}'),
        (dict[Rank, int], '{"2": 1}'),
        (timedelta, '"P1Y2M3DT4H5M6.5S"'),
        (NaiveDatetime, '"2026-02-28T23:59:59.5"'),
        (bounded(Decimal, ge=0, lt=1, decimal_places=2), '"0.99"'),
        (bounded(Decimal, ge=0, le=100, decimal_places=2), '"100"'),
        (bounded(Decimal, gt=-1, le=100, max_digits=4), '"-0.125"'),
        (bounded(date, ge=date(2024, 2, 29)), '"2024-02-29"'),
        (IPv4Network, '"192.168.4.0/22"'),
        (IPv6Network, '"2001:db8:ab00::/40"'),
        (IPv6Interface, '"fe80::1/64"'),
        (IPvAnyAddress, '"::1"'),
        (Base64Bytes, '"d2VmdA=="'),
        (complex, '"-1.5+2j"'),
        (PostgresDsn, '"postgresql://user:secret@db.example.org:5432,b.org/app"'),
        (FiniteFloat, "-12.5E+07"),
        (FiniteFloat, "1" + "0" * 64 + "E99"),
    ],
)
def test_what_pydantic_reads_can_be_written(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], kind: Any, text: str
) -> None:
    matcher = compilers["reference"].compile(schema(kind), 256).matcher()
    follow(tokenizers["reference"], matcher, text)
    assert matcher.finished


class Person(BaseModel):
    kind: Literal["person"] = "person"
    name: str = ""


class Group(BaseModel):
    kind: Literal["group", "family"] = "group"
    members: list[Annotated[Person | Group, Field(discriminator="kind")]] = []


class Deal(BaseModel):
    buyer: Group | Person | None = Field(None, discriminator="kind")
    agent: Person = Person()


@pytest.mark.parametrize("kind", [Deal, list[Deal], Group])
def test_tags_are_written_even_if_they_have_defaults(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], kind: Any
) -> None:
    grammar = compilers["reference"].compile(schema(kind), 64)
    read_back(tokenizers["reference"], grammar, kind, 30)


@pytest.mark.parametrize("kind", [HttpUrl | None, FileUrl, RedisDsn])
@pytest.mark.parametrize("limit", [24, 80])
def test_urls_are_those_that_the_type_takes(
    tokenizers: dict[str, Tokenizer],
    compilers: dict[str, GrammarCompiler],
    capfd: pytest.CaptureFixture[str],
    kind: Any,
    limit: int,
) -> None:
    grammar = compilers["reference"].compile(schema(kind), limit)
    read_back(tokenizers["reference"], grammar, kind, 30)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "url", ["https://docs.example.org/a/b?c=d%20e#f", "http://localhost:8000/", "http://a.b"]
)
def test_urls_as_people_write_them_can_be_written(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], url: str
) -> None:
    constraint = schema(HttpUrl)
    matcher = compilers["reference"].compile(constraint, 128).matcher()
    follow(tokenizers["reference"], matcher, json.dumps(url))
    assert matcher.finished
