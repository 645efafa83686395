"""JSON Schemas of Python types: those of pydantic, but so that the types take what conforms."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from enum import Enum
from fractions import Fraction
from typing import Any, Final

from pydantic import EncodedStr
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import (
    DefsRef,
    GenerateJsonSchema,
    JsonSchemaKeyT,
    JsonSchemaMode,
    JsonSchemaValue,
)
from pydantic_core import core_schema, to_jsonable_python

from .ranges import Bounds, dates, decimals

__all__ = ["Schemas"]

_LABEL: Final = r"[a-z0-9]{1,20}(?:-[a-z0-9]{1,20}){0,2}"
_HOST: Final = rf"(?:{_LABEL}\.){{0,4}}[a-z]{{1,20}}"  # neither an odd IPv4 address nor "xn--…"
_SITE: Final = rf"{_HOST}(?::[1-9]\d{{1,3}})?"
_WORD: Final = r"[A-Za-z0-9_.~-]{1,40}"
_SITES: Final = rf"(?:{_WORD}(?::{_WORD})?@)?{_SITE}(?:,{_SITE}){{0,2}}"
_PART: Final = r"\d{1,17}(?:\.\d{1,17})?"
_WHOLE: Final = r"(?:0|[1-9]\d{0,17})"
_REST: Final = r"[A-Za-z0-9._~!$&'()*+,;=:@%/?-]"

_ENDS: Final = {
    "ge": "formatMinimum",
    "gt": "formatExclusiveMinimum",
    "le": "formatMaximum",
    "lt": "formatExclusiveMaximum",
}
"""What pydantic calls the ends of a range, and keywords for them that some validators know."""


class _FieldError(PydanticInvalidForJsonSchema):
    """Says of which field it speaks."""


class Schemas(GenerateJsonSchema):
    """As pydantic, but what is read is what the type takes.

    pydantic lets a decimal be any text, a key of a dict, too, the URL one of any scheme and a date one of any
    year; and the tag of a union be left out if it has a default, although it reads no member without.
    """

    def generate(
        self, schema: core_schema.CoreSchema, mode: JsonSchemaMode = "validation"
    ) -> JsonSchemaValue:
        """The schema of a type."""
        found = super().generate(schema, mode)
        if mode == "validation":
            _require_tags(found, found.get("$defs", {}))
        return found

    def generate_definitions(
        self, inputs: Sequence[tuple[JsonSchemaKeyT, JsonSchemaMode, core_schema.CoreSchema]]
    ) -> tuple[dict[tuple[JsonSchemaKeyT, JsonSchemaMode], JsonSchemaValue], dict[DefsRef, JsonSchemaValue]]:
        """The schemas of types, and the definitions that they share."""
        found, definitions = super().generate_definitions(inputs)
        read = [schema for (_, mode), schema in found.items() if mode == "validation"]
        _require_tags([*read, definitions], definitions)
        return found, definitions

    def url_schema(self, schema: core_schema.UrlSchema) -> JsonSchemaValue:
        """The schema of a URL."""
        return _url(super().url_schema(schema), schema.get("allowed_schemes"), _SITE)

    def multi_host_url_schema(self, schema: core_schema.MultiHostUrlSchema) -> JsonSchemaValue:
        """The schema of a URL of several hosts, as those of databases are."""
        return _url(super().multi_host_url_schema(schema), schema.get("allowed_schemes"), _SITES)

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """The schema of a decimal: a text with its digits, or a number within its bounds."""
        found = super().decimal_schema(schema)
        return found if self.mode == "serialization" else _decimal(schema, found["anyOf"][0])

    def complex_schema(self, schema: core_schema.ComplexSchema) -> JsonSchemaValue:
        """The schema of a complex number, as Python writes it."""
        return {**super().complex_schema(schema), "pattern": rf"^-?{_PART}(?:[+-]{_PART}j)?$"}

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:
        """The schema of bytes, of which lengths of JSON Schema count characters."""
        found = super().bytes_schema(schema)
        least, most = found.pop("minLength", 0), found.pop("maxLength", "")
        return {**found, "pattern": rf"^[ -~]{{{least},{most}}}$"} if least or most != "" else found

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        """The schema of a literal, whose members of an enum JSON says only if they are texts or numbers."""
        for value in schema["expected"]:
            if isinstance(value, Enum) and not isinstance(value, (str, int)):
                remedy = f"take {type(value).__name__}, or a Literal of values"
                raise PydanticInvalidForJsonSchema(f"pydantic reads no {value} from JSON; {remedy}")
        return super().literal_schema(schema)

    def is_subclass_schema(self, schema: core_schema.IsSubclassSchema) -> JsonSchemaValue:
        """A class, which nothing reads from JSON. Raises PydanticInvalidForJsonSchema."""
        raise PydanticInvalidForJsonSchema(f"a subclass of {schema['cls'].__name__} is nothing that JSON has")

    def model_field_schema(self, schema: core_schema.ModelField) -> JsonSchemaValue:
        """The schema of a field, which has a name that is read."""
        alias = schema.get("validation_alias")
        if self.mode == "validation" and isinstance(alias, list):
            paths = [path if isinstance(path, list) else alias for path in alias]  # a choice, or one
            if all(len(path) > 1 for path in paths):
                path = ".".join(map(str, paths[0]))
                raise PydanticInvalidForJsonSchema(
                    f"its alias {path!r} is a path; take a model for each step"
                )
        return super().model_field_schema(schema)

    def model_fields_schema(self, schema: core_schema.ModelFieldsSchema) -> JsonSchemaValue:
        """The schema of the fields of a model; what JSON cannot say of one is told with its name."""
        try:
            return super().model_fields_schema(schema)
        except _FieldError:
            raise
        except PydanticInvalidForJsonSchema:
            for name, field in schema["fields"].items():
                try:
                    self.generate_inner(field)
                except PydanticInvalidForJsonSchema as problem:
                    of = schema.get("model_name", "the model")
                    raise _FieldError(f"the field {name!r} of {of}: {problem.message}") from None
            raise

    def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> JsonSchemaValue:
        """The schema of what a function checks or converts."""
        found = super().function_after_schema(schema)
        decodes = isinstance(getattr(schema["function"]["function"], "__self__", None), EncodedStr)
        return {**found, "contentMediaType": "text/plain"} if decodes else found

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """The schema of a dict whose keys may be no texts in Python."""
        found = super().dict_schema(schema)
        names = _names(schema.get("keys_schema", {})) if self.mode == "validation" else {}
        return {**found, "propertyNames": names} if names else found

    def date_schema(self, schema: core_schema.DateSchema) -> JsonSchemaValue:
        """The schema of a day."""
        found = super().date_schema(schema)
        bounded = self.mode == "validation" and not _ENDS.keys().isdisjoint(schema)
        return {**found, "pattern": f"^{_dates(schema)}$"} if bounded else found

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        """The schema of a time of the day."""
        return super().time_schema(schema) | _limits(schema)

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> JsonSchemaValue:
        """The schema of a span of time."""
        return super().timedelta_schema(schema) | _limits(schema)

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        """The schema of a point in time, which has a time zone unless it must not."""
        found = super().datetime_schema(schema) | _limits(schema)
        return {**found, "format": "date-time-local"} if schema.get("tz_constraint") == "naive" else found


def _limits(schema: Mapping[str, Any]) -> JsonSchemaValue:
    """The bounds of a time as keywords, of which JSON Schema has none itself."""
    return {name: to_jsonable_python(schema[key]) for key, name in _ENDS.items() if key in schema}


def _dates(schema: Mapping[str, Any]) -> str:
    """The days within the bounds of a schema, as a regex."""
    low, high = date.min.toordinal(), date.max.toordinal()
    for key in _ENDS.keys() & schema.keys():
        end = schema[key].toordinal()
        match key:
            case "ge" | "gt":
                low = max(low, end + (key == "gt"))
            case _:
                high = min(high, end - (key == "lt"))
    if low > high:
        raise PydanticInvalidForJsonSchema("no day lies within the bounds")
    return dates(date.fromordinal(low), date.fromordinal(high))


def _require_tags(part: Any, definitions: Mapping[DefsRef, JsonSchemaValue]) -> None:
    if isinstance(part, list):
        for item in part:
            _require_tags(item, definitions)
    elif isinstance(part, dict):
        match part:
            case {"discriminator": {"propertyName": str(tag)}, "oneOf": [*members]}:
                for member in members:
                    _require(tag, member, definitions)
        for item in list(part.values()):  # a member of a union may stand around it
            _require_tags(item, definitions)


def _require(tag: str, member: JsonSchemaValue, definitions: Mapping[DefsRef, JsonSchemaValue]) -> None:
    while "$ref" in member:
        member = definitions[member["$ref"].rpartition("/")[2]]
    for inner in member.get("oneOf", ()):  # a union itself
        _require(tag, inner, definitions)
    if tag in member.get("properties", {}):
        member["required"] = list(dict.fromkeys([*member.get("required", ()), tag]))


def _names(keys: Mapping[str, Any]) -> JsonSchemaValue:
    """The schema of keys that are no texts; of texts nothing."""
    match keys:
        case {"type": "int"}:
            return {"pattern": f"^{_within(_bounds(keys), 0, 18)}$"}
        case {"type": "float" | "decimal"} if bounds := _bounds(keys):
            return {"pattern": f"^{_within(bounds, 6, 18)}$"}
        case {"type": "float" | "decimal"}:
            return {"pattern": rf"^-?{_WHOLE}(?:\.\d{{1,17}})?$"}
        case {"type": "bool"}:
            return {"enum": ["true", "false"]}
        case {"type": "enum", "members": [*members]}:
            whole = keys.get("sub_type") == "int"
            names = [str(m.value) for m in members if whole or isinstance(m.value, str)]
            return _options(names, keys["cls"].__name__)
        case {"type": "literal", "expected": [*values]}:
            return _options([str(value) for value in values if isinstance(value, str)], "the Literal")
        case {"type": "tuple" | "list" | "set" | "frozenset" | "dict" | "model" as kind}:
            raise PydanticInvalidForJsonSchema(f"a {kind} is no key of JSON")
    return {}


def _options(names: list[str], of: str) -> JsonSchemaValue:
    if not names:
        raise PydanticInvalidForJsonSchema(f"no member of {of} is a key of JSON")
    return {"enum": names}


def _bounds(schema: Mapping[str, Any]) -> Bounds | None:
    """The bounds of a number; of two at one side the tighter. None if there are none."""
    given = {key: schema[key] for key in _ENDS if schema.get(key) is not None}
    ends = {key: Fraction(str(end)) for key, end in given.items() if math.isfinite(end)}
    for key, end in given.items():
        if key not in ends and not (end < 0 if key in ("ge", "gt") else end > 0):
            raise PydanticInvalidForJsonSchema(f"no number lies beyond {end}")
    if not ends:
        return None
    low = max(((end, key == "gt") for key, end in ends.items() if key in ("ge", "gt")), default=(None, False))
    high = min(((end, key == "le") for key, end in ends.items() if key in ("le", "lt")), default=(None, True))
    return Bounds(low[0], high[0], low[1], not high[1])


def _within(bounds: Bounds | None, places: int, whole: int, digits: int | None = None) -> str:
    pattern = decimals(bounds or Bounds(), places, whole, digits=digits)
    if not pattern:
        raise PydanticInvalidForJsonSchema(f"no number of {places} places lies within the bounds")
    return pattern


def _decimal(schema: core_schema.DecimalSchema, number: JsonSchemaValue) -> JsonSchemaValue:
    """A text has all digits, and as many as may be; bounds alone, but for a sign, are those of a number."""
    bounds = {"ge", "gt", "le", "lt", "multiple_of"} & schema.keys()
    digits, places = schema.get("max_digits"), schema.get("decimal_places")
    if bounds and not (bounds in ({"ge"}, {"gt"}) and schema.get("ge", schema.get("gt")) == 0):
        if "multiple_of" in bounds or digits is places is None:
            return number
        most = (digits or 0) if places is None else places
        whole = 17 if digits is None else max(digits - (places or 0), 0)
        return {"type": "string", "pattern": f"^{_within(_bounds(schema), most, whole, digits)}$"}
    if digits is None:
        forms = [(17, 17 if places is None else places)]
    elif places is None:
        forms = [(whole, digits - whole) for whole in range(digits + 1)]
    else:
        forms = [(max(digits - places, 0), min(digits, places))]
    written = [form for whole, rest in forms for form in _digits(whole, rest, positive="gt" in bounds)]
    return {"type": "string", "pattern": f"^{'' if bounds else '-?'}(?:{'|'.join(written)})$"}


def _digits(whole: int, places: int, *, positive: bool) -> Iterator[str]:
    """Patterns of the numbers with so many digits before and after the point, at most."""
    fraction = rf"\.\d{{1,{places}}}" if places else ""
    if whole:
        yield rf"[1-9]\d{{0,{whole - 1}}}(?:{fraction})?"
    if not positive:
        yield f"0(?:{fraction})?" if whole else f"0{fraction}"  # the 0 counts unless a point follows
    elif places:
        small = "|".join(rf"0{{{zeros}}}[1-9]\d{{0,{places - 1 - zeros}}}" for zeros in range(places))
        yield rf"0\.(?:{small})"


def _url(found: JsonSchemaValue, schemes: Collection[str] | None, site: str) -> JsonSchemaValue:
    """URLs of common form, shorter than the 2083 characters that pydantic allows."""
    if not schemes:
        return found
    host = "" if set(schemes) == {"file"} else site
    written = f"(?:{'|'.join(map(re.escape, schemes))})://{host}"
    pattern = rf"^{written}(?:/{_REST}{{0,1000}})?(?:#{_REST}{{0,200}})?$"
    lengths = {"minLength"} if found.get("maxLength", 0) < 2083 else {"minLength", "maxLength"}
    return {**{key: value for key, value in found.items() if key not in lengths}, "pattern": pattern}
