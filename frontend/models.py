"""Pydantic models that a program makes of `Var`s: pydantic would check them before there are values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from .errors import TraceError
from .lifting import holds_var
from .location import raised_at

__all__ = ["values_explained"]


@contextmanager
def values_explained() -> Iterator[None]:
    """Raises TraceError in place of pydantic's error about a field that was given a `Var`."""
    try:
        yield
    except ValidationError as problem:
        if not any(holds_var(error["input"]) for error in problem.errors()):
            raise
        raise TraceError(
            f"{raised_at(problem)}: {problem.title}(...) checks its fields at once, which needs values that "
            f"only the run will know; write {problem.title}.model_construct(...): the result is checked later"
        ) from problem
