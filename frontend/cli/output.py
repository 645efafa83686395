"""What the command writes: results to standard output, all else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, Final, TextIO

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["ERRORS", "OUTPUT", "only_json", "print_json", "print_table", "print_value", "seconds"]

OUTPUT: Final = Console(highlight=False, soft_wrap=True)
"""Standard output."""
ERRORS: Final = Console(stderr=True, highlight=False, soft_wrap=True)
"""Standard error: progress, errors, and what a program need not read."""

_JSON: Final[ContextVar[TextIO | None]] = ContextVar("_JSON", default=None)  # None: to standard output


@contextmanager
def only_json() -> Iterator[None]:
    """All but `print_json` writes to standard error, also what programs and tools print."""
    token = _JSON.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _JSON.reset(token)


def print_json(value: Any) -> None:
    """Write a value as one line of JSON; pydantic models and dataclasses as objects."""
    text = json.dumps(to_jsonable_python(value), ensure_ascii=False)
    print(text, file=_JSON.get() or sys.stdout, flush=True)


def print_value(value: Any) -> None:
    """Write a program's result: a text as it is, anything else as indented JSON."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(to_jsonable_python(value), ensure_ascii=False, indent=2)
    )
    OUTPUT.out(text, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whose cells are not markup."""
    table = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        min_width=len(title),  # as titles are wrapped to the table
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    OUTPUT.print(table, soft_wrap=False)


def seconds(value: float) -> str:
    """A duration for people."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
