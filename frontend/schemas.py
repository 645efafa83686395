"""JSON Schemas of Python types: those of pydantic, which hold a model to URLs that the type takes."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

__all__ = ["Schemas"]

_LABEL: Final = r"[a-z0-9]{1,20}(?:-[a-z0-9]{1,20}){0,2}"
_HOST: Final = rf"(?:{_LABEL}\.){{0,4}}[a-z]{{1,20}}"  # neither an odd IPv4 address nor "xn--…"
_REST: Final = r"[A-Za-z0-9._~!$&'()*+,;=:@%/?-]"


class Schemas(GenerateJsonSchema):
    """As pydantic, but with patterns of URLs: the format "uri" says nothing of schemes."""

    def url_schema(self, schema: core_schema.UrlSchema) -> JsonSchemaValue:
        """The schema of a URL."""
        found = super().url_schema(schema)
        schemes = schema.get("allowed_schemes")
        return {**found, "pattern": _pattern(schemes)} if schemes else found


def _pattern(schemes: Collection[str]) -> str:
    """URLs of common form, shorter than the 2083 characters that pydantic allows."""
    host = "" if set(schemes) == {"file"} else rf"{_HOST}(?::[1-9]\d{{1,3}})?"
    return rf"^(?:{'|'.join(map(re.escape, schemes))})://{host}(?:/{_REST}{{0,1000}})?(?:#{_REST}{{0,200}})?$"
