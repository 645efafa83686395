"""How the fields of request bodies are read: strictly, with errors that name the field and the remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from .errors import ApiError

__all__ = ["Body", "Unsupported", "read_body"]


class Unsupported(NamedTuple):
    """A parameter that others offer and weft does not."""

    remedy: str
    neutral: tuple[Any, ...] = ()
    """Values that ask for nothing."""


class Body(BaseModel):
    """A request body. A field that is null counts as left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}


AnyBody = TypeVar("AnyBody", bound=Body)


def read_body(
    kind: type[AnyBody],
    data: Any,
    *,
    ignored: frozenset[str] = frozenset(),
    unsupported: Mapping[str, Unsupported] | None = None,
) -> AnyBody:
    """The body that a JSON value says. Raises ApiError that names the parameter.

    `ignored`: parameters that change nothing about an answer.
    """
    if not isinstance(data, dict):
        raise ApiError(400, f"the body must be a JSON object, not {_shown(data)}")
    given = {}
    for name, value in data.items():
        refusal = (unsupported or {}).get(name)
        if value is None or name in ignored or (refusal and value in refusal.neutral):
            continue
        if refusal:
            raise ApiError(
                400, f"{name!r} is not supported: {refusal.remedy}", param=name, code="unsupported_parameter"
            )
        given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as problem:
        raise _explained(problem, kind) from None


def _explained(problem: ValidationError, kind: type[Body]) -> ApiError:
    """The first of the mistakes; one in a name before those in values."""
    error = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
    param = _path(error["loc"])
    match error["type"]:
        case "missing":
            message = f"{param!r} is missing"
        case "extra_forbidden":
            known = f"; known: {', '.join(kind.model_fields)}" if len(error["loc"]) == 1 else ""
            message = f"unknown parameter {param!r}: leave it out{known}"
        case "too_short" if isinstance(error["input"], list):
            message = f"{param!r} must hold at least {error['ctx']['min_length']} item"
        case "value_error":
            message = f"{param!r}: {error['ctx']['error']}"
        case _:
            said = error["msg"][:1].lower() + error["msg"][1:]
            message = f"{param!r}: {said}, not {_shown(error['input'])}"
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
    return ApiError(400, message, param=param, code=code.get(error["type"], "invalid_value"))


def _path(steps: tuple[str | int, ...]) -> str:
    """`messages[0].content`."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path.removeprefix(".")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
