"""JSON Schemas of Python types: those of pydantic, but so that the types take what conforms."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import (
    DefsRef,
    GenerateJsonSchema,
    JsonSchemaKeyT,
    JsonSchemaMode,
    JsonSchemaValue,
)
from pydantic_core import core_schema

__all__ = ["Schemas"]

_LABEL: Final = r"[a-z0-9]{1,20}(?:-[a-z0-9]{1,20}){0,2}"
_HOST: Final = rf"(?:{_LABEL}\.){{0,4}}[a-z]{{1,20}}"  # neither an odd IPv4 address nor "xn--…"
_WHOLE: Final = r"(?:0|[1-9]\d{0,17})"
_REST: Final = r"[A-Za-z0-9._~!$&'()*+,;=:@%/?-]"


class Schemas(GenerateJsonSchema):
    """As pydantic, but what is read is what the type takes.

    pydantic lets a decimal be any text, a key of a dict, too, and the URL one of any scheme; and the tag of a
    union be left out if it has a default, although it reads no member without.
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
        found = super().url_schema(schema)
        schemes = schema.get("allowed_schemes")
        return {**found, "pattern": _pattern(schemes)} if schemes else found

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """The schema of a decimal: a text with its digits, or a number within its bounds."""
        found = super().decimal_schema(schema)
        return found if self.mode == "serialization" else _decimal(schema, found["anyOf"][0])

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """The schema of a dict whose keys may be no texts in Python."""
        found = super().dict_schema(schema)
        names = _names(schema.get("keys_schema", {})) if self.mode == "validation" else {}
        return {**found, "propertyNames": names} if names else found

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        """The schema of a point in time, which has a time zone unless it must not."""
        found = super().datetime_schema(schema)
        return {**found, "format": "date-time-local"} if schema.get("tz_constraint") == "naive" else found


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
        case {"type": "int", "ge": int(low)} | {"type": "int", "gt": int(low)} if low >= 0:
            return {"pattern": f"^{_WHOLE}$"}
        case {"type": "int"}:
            return {"pattern": f"^-?{_WHOLE}$"}
        case {"type": "float" | "decimal"}:
            return {"pattern": rf"^-?{_WHOLE}(?:\.\d{{1,17}})?$"}
        case {"type": "bool"}:
            return {"enum": ["true", "false"]}
        case {"type": "enum", "members": [*members]}:
            whole = keys.get("sub_type") == "int"
            names = [str(m.value) for m in members if whole or isinstance(m.value, str)]
            if not names:
                raise PydanticInvalidForJsonSchema(f"no member of {keys['cls'].__name__} is a key of JSON")
            return {"enum": names}
    return {}


def _decimal(schema: core_schema.DecimalSchema, number: JsonSchemaValue) -> JsonSchemaValue:
    """A text has all digits, and as many as may be; bounds other than a sign only a number keeps."""
    bounds = {"ge", "gt", "le", "lt", "multiple_of"} & schema.keys()
    if bounds and not (bounds in ({"ge"}, {"gt"}) and schema.get("ge", schema.get("gt")) == 0):
        return number
    digits, places = schema.get("max_digits"), schema.get("decimal_places")
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


def _pattern(schemes: Collection[str]) -> str:
    """URLs of common form, shorter than the 2083 characters that pydantic allows."""
    host = "" if set(schemes) == {"file"} else rf"{_HOST}(?::[1-9]\d{{1,3}})?"
    return rf"^(?:{'|'.join(map(re.escape, schemes))})://{host}(?:/{_REST}{{0,1000}})?(?:#{_REST}{{0,200}})?$"
