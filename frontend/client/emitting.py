"""`emit`: what tools and async programs tell those who follow their run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .journal import Journal

__all__ = ["emit_into", "emitting", "run_here"]

_journal: ContextVar[Journal | None] = ContextVar("weft_journal", default=None)


def emit_into(journal: Journal) -> None:
    """What is emitted in this context from now on is of this run."""
    _journal.set(journal)


@contextmanager
def emitting(journal: Journal) -> Iterator[None]:
    """What is emitted inside the `with` block, and by what is started there, is of this run."""
    token = _journal.set(journal)
    try:
        yield
    finally:
        _journal.reset(token)


def run_here() -> Journal | None:
    """The record of the run that the code at this place works for, if any."""
    return _journal.get()
