"""What of a JSON Schema no grammar can hold a model to."""

from __future__ import annotations

import pytest

from weft.graph.enforceable import refusal
from weft.graph.schema import Schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"type": "number", "minimum": 0, "exclusiveMinimum": 5, "maximum": 5.0000001},
            "the range from 5 to 5.0000001 is too narrow",
        ),
        ({"type": ["number", "null"], "minimum": 0, "maximum": 1e-9}, "from 0 to 1e-09 is too narrow"),
        ({"type": ["integer", "null"], "maximum": 2**70}, f"the bound {2**70} cannot be enforced"),
        ({"type": ["null", "array"], "items": {"not": {}}}, "the schema keyword 'not' cannot be enforced"),
    ],
)
def test_each_form_of_a_bound_is_read(schema: Schema, message: str) -> None:
    assert message in (refusal(schema) or "")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["integer", "null"], "minimum": 0, "exclusiveMinimum": -5, "maximum": 1},
        {"type": ["string", "null"], "minimum": 0, "maximum": 0},
        {"discriminator": {"mapping": {"not": "#/$defs/Not"}, "propertyName": "kind"}},
    ],
)
def test_what_can_be_enforced_is_not_refused(schema: Schema) -> None:
    assert refusal(schema) is None
