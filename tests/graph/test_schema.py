from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.graph import schema
from weft.graph.schema import canonical

PLAN = canonical(
    {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "steps": {"type": "array", "items": {"$ref": "#/$defs/Step"}},
            "owner": {"anyOf": [{"$ref": "#/$defs/Step"}, {"type": "null"}]},
        },
        "required": ["title"],
        "$defs": {
            "Step": {
                "type": "object",
                "properties": {"tool": {"enum": ["search", "finish"]}, "next": {"$ref": "#/$defs/Step"}},
                "required": ["tool"],
            }
        },
    }
)


def test_equal_schemas_have_equal_texts() -> None:
    assert canonical({"b": 1, "a": [True, "ü"]}) == '{"a":[true,"ü"],"b":1}'
    assert canonical(schema.parse(' {"b": 1,\n"a": 2} ')) == canonical({"a": 2, "b": 1})


# ---- walking


def test_fields_and_items_are_found_through_references() -> None:
    step = schema.item(schema.field(PLAN, "steps"))
    assert schema.fields(PLAN) == ("title", "steps", "owner")
    assert schema.fields(step) == ("tool", "next")
    assert schema.field(schema.field(step, "next"), "tool") == '{"enum":["search","finish"]}'


def test_fields_of_an_optional_object_are_those_of_the_object() -> None:
    owner = schema.field(PLAN, "owner")
    assert schema.fields(owner) == ("tool", "next")


def test_what_a_schema_does_not_say_may_be_anything() -> None:
    assert schema.fields("{}") is None
    assert schema.field("{}", "x") == schema.ANY
    assert schema.item('{"type":"array"}') == schema.ANY
    assert schema.fields('{"type":"string"}') == ()


def test_additional_properties_give_the_schema_of_any_field() -> None:
    assert schema.field('{"additionalProperties":{"type":"integer"}}', "x") == '{"type":"integer"}'


def test_items_by_position() -> None:
    pair = canonical({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]})
    assert schema.item(pair, 0) == '{"type":"string"}'
    assert schema.item(pair, 1) == '{"type":"integer"}'
    assert schema.item(pair, 2) == schema.ANY
    assert schema.item(pair, -1) == schema.ANY


def test_a_list_of_referring_items_keeps_the_definitions() -> None:
    listed = schema.list_of(PLAN)
    assert schema.item(listed) == PLAN
    assert schema.list_of('{"type":"string"}') == '{"items":{"type":"string"},"type":"array"}'


@pytest.mark.parametrize(
    "text",
    [
        '{"$defs":{"a":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}',
        '{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}',
        '{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"}]}},"$ref":"#/$defs/a"}',
    ],
)
def test_references_in_a_circle_say_nothing(text: str) -> None:
    root = json.loads(text)
    assert list(schema.branches(root, root)) == []
    assert schema.field(text, "x") == schema.ANY
    schema.check({"x": 1}, text, "value")


def test_branches_are_given_once_however_often_they_are_named() -> None:
    doubling = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(200)}
    root: dict[str, Any] = {"$defs": doubling | {"d200": {"type": "null"}}, "$ref": "#/$defs/d0"}
    assert list(schema.branches(root, root)) == [{"type": "null"}]


def test_a_reference_to_itself_resolves_to_nothing() -> None:
    root = json.loads('{"$defs":{"a":{"$ref":"#/$defs/a"}}}')
    assert schema.resolve({"$ref": "#/$defs/a"}, root) == {}


def test_a_reference_that_leads_nowhere_allows_anything() -> None:
    assert schema.resolve({"$ref": "#/$defs/none"}, {}) == {}
    schema.check(5, '{"$ref":"#/$defs/none"}', "value")


# ---- checking values


@pytest.mark.parametrize(
    "value",
    [
        {"title": "a"},
        {"title": "a", "steps": [{"tool": "search"}], "owner": None, "more": 1},
        {"title": "a", "owner": {"tool": "finish", "next": {"tool": "search"}}},
    ],
)
def test_conforming_values_pass(value: object) -> None:
    schema.check(value, PLAN, "plan")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "plan must be object, not array"),
        ("x", "plan must be object, not string 'x'"),
        ({}, "plan lacks the field 'title'"),
        ({"title": 3}, "plan.title must be string, not integer 3"),
        (
            {"title": "a", "steps": [{"tool": "search"}, {"tool": "fly"}]},
            "plan.steps[1].tool must be one of ['search', 'finish'], not 'fly'",
        ),
        (
            {"title": "a", "owner": 3},
            "plan.owner must be object, not integer 3 or plan.owner must be null, not integer 3",
        ),
    ],
)
def test_the_first_contradiction_is_named(value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{re.escape(problem)}\Z"):
        schema.check(value, PLAN, "plan")


@pytest.mark.parametrize(
    ("kind", "value", "conforms"),
    [
        ("integer", 1, True),
        ("integer", True, False),
        ("integer", 1.5, False),
        ("number", 1, True),
        ("number", 1.5, True),
        ("number", False, False),
        ("boolean", False, True),
        ("null", None, True),
        (["string", "null"], None, True),
        (["string", "null"], 1, False),
    ],
)
def test_json_types(kind: object, value: object, conforms: bool) -> None:
    text = json.dumps({"type": kind})
    if conforms:
        schema.check(value, text, "value")
        return
    with pytest.raises(ValueError, match=r"^value must be (integer|number|string or null), not "):
        schema.check(value, text, "value")


def test_values_nested_without_end_are_refused() -> None:
    tree = '{"$defs":{"a":{"type":"array","items":{"$ref":"#/$defs/a"}}},"$ref":"#/$defs/a"}'
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match=r"^value is nested too deeply$"):
        schema.check(value, tree, "value")


# ---- parsing


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not the JSON text of a schema: Expecting property name"),
        ('{"a": NaN}', "not the JSON text of a schema: NaN is not JSON"),
        ('{"a": "\\ud800"}', "not the JSON text of a schema: .*surrogates"),
        ('{"a":' * 101 + "0" + "}" * 101, "the schema is nested more than 100 levels deep"),
        ('{"a":' * 950 + "0" + "}" * 950, "the schema is nested more than 100 levels deep"),
        ("true", "the schema must be a JSON object, not boolean True"),
        ('{"type": 3}', "the schema.type must be string or array, not integer 3"),
        ('{"type": ["string", 3]}', "the schema.type must hold strings, not integer 3"),
        ('{"required": [[]]}', "the schema.required must hold strings, not array"),
        ('{"anyOf": [{}, 3]}', r"the schema.anyOf\[1\] must be a JSON object, not integer 3"),
        (
            '{"properties": {"a": {"items": []}}}',
            "the schema.properties.a.items must be boolean or object, not array",
        ),
        ('{"$defs": {"A": {"$ref": 1}}}', r"the schema.\$defs.A.\$ref must be string, not integer 1"),
    ],
)
def test_malformed_schemas_say_where(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}"):
        schema.parse(text)


KEYWORDS = [
    "type",
    "properties",
    "$defs",
    "items",
    "anyOf",
    "oneOf",
    "prefixItems",
    "required",
    "enum",
    "$ref",
    "a",
]
LEAVES = (
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["string", "object", "#/$defs/a", "a"])
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    max_leaves=12,
)


@given(shape=st.dictionaries(st.sampled_from(KEYWORDS), ANYTHING), value=ANYTHING)
def test_what_parses_can_be_walked_and_checked(shape: dict[str, Any], value: object) -> None:
    try:
        text = canonical(schema.parse(json.dumps(shape)))
    except ValueError:
        return
    schema.fields(text)
    for inner in (schema.field(text, "a"), schema.item(text), schema.list_of(text)):
        assert canonical(schema.parse(inner)) == inner
    with suppress(ValueError):
        schema.check(value, text, "value")
