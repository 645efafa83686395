"""What of a JSON Schema no grammar can hold a model to while it writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

from .schema import Schema

__all__ = ["DATA", "NAMED", "refusal"]

NAMED: Final = {"properties", "$defs", "definitions", "patternProperties"}
"""The keywords whose keys are names."""
DATA: Final = {"enum", "const", "default", "examples", "discriminator"}
"""The keywords that hold no schemas."""

_KEYWORDS: Final = {"multipleOf", "contains", "not", "if", "dependentRequired", "dependentSchemas"}
_TIMES: Final = {"formatMinimum", "formatExclusiveMinimum", "formatMaximum", "formatExclusiveMaximum"}
_CONTENTS: Final = {
    "application/json": "JSON within a text; take what it says itself, as list[int] for Json[list[int]]",
    "text/plain": "a text in base64; take a str",
}
_PLACES: Final = 6  # after the point, of numbers with bounds
_LARGEST: Final = 2**63 - 1


def refusal(schema: Schema, *, exact: bool = False) -> str | None:
    """Why a model cannot be held to `schema`, which field that is, and what to do; None if it can.

    `exact` also refuses what else would be left to who reads the value: lengths beside a pattern, what a text
    holds, and the bounds of times.
    """
    found = (_refused(*said) or (_left(*said) if exact else "") for said in _keywords(schema, ""))
    return next(filter(None, found), None)


def _keywords(schema: object, place: str) -> Iterator[tuple[Schema, str, str]]:
    """Each keyword of a schema and its subschemas: where it stands, itself, and of which field it is said."""
    if isinstance(schema, list):
        for item in schema:
            yield from _keywords(item, place)
    elif isinstance(schema, Mapping):
        for keyword, value in schema.items():
            yield schema, keyword, f" of {place!r}" if place else ""
            if keyword in NAMED and isinstance(value, Mapping):
                for name, part in value.items():
                    yield from _keywords(part, f"{place}.{name}" if place else name)
            elif keyword not in DATA:
                yield from _keywords(value, place)


def _refused(schema: Schema, keyword: str, of: str) -> str:
    value = schema[keyword]
    match keyword:
        case "uniqueItems" if value is not False:
            return f"the schema keyword {keyword!r}{of} cannot be enforced; take a list instead of a set"
        case _ if keyword in _KEYWORDS and value is not False:
            return f"the schema keyword {keyword!r}{of} cannot be enforced; remove it and check the value"
        case "format" if value in ("email", "idn-email"):
            return f"the format {value!r}{of} cannot be enforced, for it allows quoted names; use a pattern"
        case "pattern" if '"' in str(value) or "\\\\" in str(value):
            return f"the pattern {value!r}{of} asks for a quotation mark or backslash, which JSON escapes"
        case "type":
            return _refused_ends(schema, {value} if isinstance(value, str) else set(value), of)
    return ""


def _refused_ends(schema: Schema, types: set[str], of: str) -> str:
    low = max(_ends(schema, "minimum", "exclusiveMinimum"), default=-math.inf)
    high = min(_ends(schema, "maximum", "exclusiveMaximum"), default=math.inf)
    if "number" in types and high - low < 10 ** (1 - _PLACES):
        remedy = f"numbers with bounds have {_PLACES} places; take another unit"
        return f"the range from {low!r} to {high!r}{of} is too narrow to be enforced; {remedy}"
    for end in (low, high) if "integer" in types else ():
        if _LARGEST < abs(end) < math.inf:
            return f"the bound {end!r}{of} cannot be enforced, for it has more than 64 bits; remove it"
    return ""


def _left(schema: Schema, keyword: str, of: str) -> str:
    value = schema[keyword]
    match keyword:
        case "minLength" | "maxLength" if "pattern" in schema:
            remedy = "say it in the pattern, as [a-z]{2,3}"
            return f"the schema keyword {keyword!r}{of} cannot be enforced beside a pattern; {remedy}"
        case "contentMediaType" if value in _CONTENTS:
            return f"the content{of} cannot be enforced: it is {_CONTENTS[value]}"
        case _ if keyword in _TIMES:
            return f"the bound {value!r}{of} cannot be enforced; remove it and check the value"
    return ""


def _ends(schema: Schema, *names: str) -> list[float]:
    """The bounds that a schema says by some keywords."""
    return [schema[name] for name in names if isinstance(schema.get(name), (int, float))]
