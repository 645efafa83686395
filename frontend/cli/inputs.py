"""``-i name=value``: the inputs of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .problems import UsageProblem

__all__ = ["parse_inputs"]


def parse_inputs(given: Sequence[str], texts: Mapping[str, bool]) -> dict[str, Any]:
    """The inputs by name. `texts` has all that there are, and whether each is a text.

    A value is JSON, or the text itself where the input is a text or the value is no JSON. ``@FILE`` reads the
    value from a file, ``@-`` from standard input; ``@@`` stands for an `@` at its beginning. Raises
    UsageProblem.
    """
    found: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageProblem(f"an input is written name=value, not {item!r}")
        if name not in texts:
            raise UsageProblem(f"there is no input {name!r}; there are: {', '.join(texts) or 'none'}")
        if name in found:
            raise UsageProblem(f"the input {name!r} is given twice")
        found[name] = _parse(_read(name, value), texts[name])
    return found


def _read(name: str, value: str) -> str:
    if value.startswith("@@") or not value.startswith("@"):
        return value.removeprefix("@") if value.startswith("@@") else value
    if value == "@-":
        return sys.stdin.read()
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageProblem(f"input {name!r}: the file {value[1:]!r} cannot be read: {reason}") from None


def _parse(value: str, is_text: bool) -> Any:
    if is_text:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
