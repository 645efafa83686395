"""The little of JSON Schema that the graph needs: walk into a schema by field or item, and check a value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

__all__ = [
    "ANY",
    "Schema",
    "branches",
    "canonical",
    "check",
    "field",
    "fields",
    "item",
    "list_of",
    "loads",
    "loads_safe",
    "parse",
    "resolve",
]

Schema = Mapping[str, Any]

ANY: Final = "{}"
"""The schema that every JSON value conforms to, as canonical text."""

_KEPT: Final = 1024  # answers about schemas: a program asks for the same few again and again

_MAX_DEPTH: Final = 100  # of JSON that is walked, so that this cannot exhaust the stack

_JSON_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def canonical(schema: Schema) -> str:
    """The JSON text by which equal schemas are equal strings.

    Keywords are sorted; properties keep their order, which is that in which a model writes them.
    """
    return json.dumps(_sorted(schema), separators=(",", ":"), ensure_ascii=False)


def _sorted(schema: Any, *, names: bool = False) -> Any:
    """The schema with sorted keywords; a mapping of `names` keeps its order."""
    if isinstance(schema, list):
        return [_sorted(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    keys = schema if names else sorted(schema)
    return {key: _sorted(schema[key], names=key == "properties" and not names) for key in keys}


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what is not JSON, as `NaN`, or nested too deep."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def loads_safe(text: str) -> Any:
    """The value of a JSON text of a model or a client, which can be walked and sent.

    Raises ValueError as `loads`, and where it is nested too deep or has halves of surrogate pairs.
    """
    value = loads(text)
    if _depth(value) > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
    json.dumps(value, ensure_ascii=False).encode()
    return value


def parse(text: str) -> Schema:
    """The schema that a JSON text says. Raises ValueError with the path of the first malformed keyword."""
    try:
        schema = loads(text)
        deep = _depth(schema) > _MAX_DEPTH
        if not deep:
            canonical(schema).encode()
    except ValueError as problem:
        raise ValueError(f"not the JSON text of a schema: {problem}") from None
    if deep:
        raise ValueError(f"the schema is nested more than {_MAX_DEPTH} levels deep")
    return _checked(schema, "the schema")


@lru_cache(_KEPT)
def list_of(item_schema: str) -> str:
    """The canonical schema of a list whose items conform to `item_schema`; definitions move to the root."""
    inner = dict(json.loads(item_schema))
    outer: dict[str, Any] = {"type": "array"}
    if "$defs" in inner:
        outer["$defs"] = inner.pop("$defs")
    outer["items"] = inner
    return canonical(outer)


def resolve(schema: Schema, root: Schema) -> Schema:
    """Follow `$ref`s that point into the root's `$defs`; a `$ref` that leads nowhere says nothing."""
    return next(_resolved(schema, root, set()), {})


def branches(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The alternatives of a schema: itself, or the members of its `anyOf` / `oneOf`, each once."""
    yield from _branches(schema, root, set())


def _resolved(schema: Schema, root: Schema, seen: set[str]) -> Iterator[Schema]:
    """The schema behind the `$ref`s; none if they lead to one that was `seen`, so that cycles end."""
    while isinstance(schema.get("$ref"), str):
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        target = root.get("$defs", {}).get(name)
        if name in seen:
            return
        seen.add(name)
        schema = target if isinstance(target, Mapping) else {}
    yield schema


def _branches(schema: Schema, root: Schema, seen: set[str]) -> Iterator[Schema]:
    for resolved in _resolved(schema, root, seen):
        options = resolved.get("anyOf") or resolved.get("oneOf")
        if not options:
            yield resolved
            continue
        for option in options:
            yield from _branches(option, root, seen)


@lru_cache(_KEPT)
def fields(text: str) -> tuple[str, ...] | None:
    """The names of the fields of an object schema, or None when the schema does not say."""
    root = json.loads(text)
    names: list[str] = []
    for branch in branches(root, root):
        if "properties" in branch:
            names += branch["properties"]
        elif branch.get("type") not in ("null", "string", "integer", "number", "boolean", "array"):
            return None
    return tuple(dict.fromkeys(names))


@lru_cache(_KEPT)
def field(text: str, name: str) -> str:
    """The canonical schema of field `name`; `ANY` when the schema does not say."""
    root = json.loads(text)
    for branch in branches(root, root):
        inner = branch.get("properties", {}).get(name)
        if inner is None and isinstance(branch.get("additionalProperties"), Mapping):
            inner = branch["additionalProperties"]
        if inner is not None:
            return _rooted(resolve(inner, root), root)
    return ANY


@lru_cache(_KEPT)
def item(text: str, index: int = 0) -> str:
    """The canonical schema of item `index` of a list; `ANY` when the schema does not say."""
    root = json.loads(text)
    for branch in branches(root, root):
        prefix = branch.get("prefixItems", [])
        if 0 <= index < len(prefix):
            return _rooted(resolve(prefix[index], root), root)
        if isinstance(branch.get("items"), Mapping):
            return _rooted(resolve(branch["items"], root), root)
    return ANY


def check(value: object, text: str, where: str) -> None:
    """Refuse `value` where its JSON type contradicts the schema.

    Checks types, required fields, items and enumerations: what tells a caller's mistake at the door.
    Raises ValueError with the path of the first contradiction.
    """
    root = json.loads(text)
    try:
        _check(value, root, root, where)
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply") from None


def _check(value: object, schema: Schema, root: Schema, where: str) -> None:
    options = list(branches(schema, root)) or [{}]
    if len(options) > 1:
        _check_any(value, options, root, where)
        return
    schema = options[0]
    _check_type(value, schema, where)
    if "enum" in schema and value not in schema["enum"]:
        raise ValueError(f"{where} must be one of {schema['enum']}, not {value!r}")
    if isinstance(value, dict):
        _check_object(value, schema, root, where)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, element in enumerate(value):
            _check(element, schema["items"], root, f"{where}[{index}]")


def _check_any(value: object, options: list[Schema], root: Schema, where: str) -> None:
    problems: list[str] = []
    for option in options:
        try:
            _check(value, option, root, where)
        except ValueError as problem:
            problems.append(str(problem))
        else:
            return
    raise ValueError(" or ".join(dict.fromkeys(problems)))


def _check_type(value: object, schema: Schema, where: str) -> None:
    expected = schema.get("type")
    if expected is None:
        return
    names = [expected] if isinstance(expected, str) else list(expected)
    for name in names:
        matches = isinstance(value, _JSON_TYPES.get(name, (object,)))
        if matches and not (isinstance(value, bool) and name in ("integer", "number")):
            return
    raise ValueError(f"{where} must be {' or '.join(names)}, not {_kind(value)}")


def _check_object(value: dict[str, object], schema: Schema, root: Schema, where: str) -> None:
    for name in schema.get("required", ()):
        if name not in value:
            raise ValueError(f"{where} lacks the field {name!r}")
    for name, inner in schema.get("properties", {}).items():
        if name in value:
            _check(value[name], inner, root, f"{where}.{name}")


def _kind(value: object) -> str:
    for name in ("boolean", "string", "integer", "number", "array", "object", "null"):
        if isinstance(value, _JSON_TYPES[name]):
            return f"{name} {value!r}" if not isinstance(value, (list, dict)) else name
    return type(value).__name__


def _rooted(schema: Schema, root: Schema) -> str:
    if "$defs" in root and "$ref" in canonical(schema):
        return canonical({**schema, "$defs": root["$defs"]})
    return canonical(schema)


_SHAPES: Final[Mapping[str, tuple[type, ...]]] = {
    "$ref": (str,),
    "type": (str, list),
    "enum": (list,),
    "required": (list,),
    "properties": (dict,),
    "$defs": (dict,),
    "items": (dict, bool),
    "additionalProperties": (dict, bool),
    "prefixItems": (list,),
    "anyOf": (list,),
    "oneOf": (list,),
}
"""What the keywords that this module reads must look like."""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _depth(value: object) -> int:
    """How many lists and objects stand inside one another, at most."""
    depth, level = 0, [value]
    while level := [inner for inner in level if isinstance(inner, (dict, list))]:
        depth += 1
        level = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def _checked(schema: object, where: str) -> Schema:
    """The schema, if its keywords look as they must. Raises ValueError."""
    if not isinstance(schema, dict):
        raise ValueError(f"{where} must be a JSON object, not {_kind(schema)}")
    for key in sorted(_SHAPES.keys() & schema.keys()):
        _check_keyword(key, schema[key], f"{where}.{key}")
    return schema


def _check_keyword(key: str, inner: Any, where: str) -> None:
    kinds = _SHAPES[key]
    matches = isinstance(inner, kinds)
    if not matches:
        wanted = " or ".join(name for name, types in _JSON_TYPES.items() if types[0] in kinds)
        raise ValueError(f"{where} must be {wanted}, not {_kind(inner)}")
    if key in ("properties", "$defs"):
        for name, option in inner.items():
            _checked(option, f"{where}.{name}")
    elif key in ("anyOf", "oneOf", "prefixItems"):
        for index, option in enumerate(inner):
            _checked(option, f"{where}[{index}]")
    elif key in ("type", "required"):
        _check_names(inner, where)
    elif isinstance(inner, dict):
        _checked(inner, where)


def _check_names(names: str | list[object], where: str) -> None:
    for name in [names] if isinstance(names, str) else names:
        if not isinstance(name, str):
            raise ValueError(f"{where} must hold strings, not {_kind(name)}")
