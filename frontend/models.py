"""Code that needs values, given `Var`s: pydantic's, which checks models, and that of libraries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pydantic import ValidationError

from .errors import TraceError
from .lifting import holds_var
from .location import raised_at
from .var import Var

__all__ = ["values_explained"]

_BLAMED: Final = re.compile(r"\bVar\b")
"""As in "sequence item 0: expected str instance, Var found"."""


@contextmanager
def values_explained() -> Iterator[None]:
    """Raises TraceError in place of errors of pydantic, and of Python, about what was given a `Var`."""
    try:
        yield
    except ValidationError as problem:
        if not any(holds_var(error["input"]) for error in problem.errors()):
            raise
        raise TraceError(
            f"{raised_at(problem)}: {problem.title}(...) checks its fields at once, which needs values that "
            f"only the run will know; write {problem.title}.model_construct(...): the result is checked later"
        ) from problem
    except KeyError as problem:
        if not (problem.args and isinstance(problem.args[0], Var)):
            raise
        raise TraceError(
            f"{raised_at(problem)}: looking it up needs {problem.args[0]!r}, which only the run will know; "
            "await it in an async program, use cond, or let a tool do the work"
        ) from problem
    except TypeError as problem:
        if type(problem) is not TypeError or not _BLAMED.search(str(problem)):
            raise
        raise TraceError(
            f"{raised_at(problem)}: {problem}: a Var stands for what only the run will know; write it into "
            'an f-string, as in "\\n".join(f"{x}" for x in xs), let a tool do the work, or await it in an '
            "async program"
        ) from problem
