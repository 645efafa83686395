"""JSON Schemas of Python types: those of pydantic, which hold a model to URLs and tags that types take."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

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
_REST: Final = r"[A-Za-z0-9._~!$&'()*+,;=:@%/?-]"


class Schemas(GenerateJsonSchema):
    """As pydantic, but with patterns of URLs: the format "uri" says nothing of schemes.

    And what is read of a tagged union has its tag, even if that has a default: pydantic reads none without.
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


def _pattern(schemes: Collection[str]) -> str:
    """URLs of common form, shorter than the 2083 characters that pydantic allows."""
    host = "" if set(schemes) == {"file"} else rf"{_HOST}(?::[1-9]\d{{1,3}})?"
    return rf"^(?:{'|'.join(map(re.escape, schemes))})://{host}(?:/{_REST}{{0,1000}})?(?:#{_REST}{{0,200}})?$"
