"""Answers of the person at the terminal to what a run asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from weft.frontend.client import Run
from weft.frontend.client.events import Event, Interrupted
from weft.frontend.errors import Rejected
from weft.proto import orchestrator_pb2 as pb

from .output import ERRORS
from .problems import UsageProblem

__all__ = ["answer", "answered"]


def answer(run: Run[Any], info: pb.RunInfo, text: str, node: int | None) -> None:
    """Resume a run, of which `info` says what it waits for. Raises Rejected."""
    asked = next((each for each in info.waiting if node in (None, each.node)), pb.Interrupted(type="{}"))
    run.resume(_value(text, asked.type), node=node)


def answered(run: Run[Any], *, alone: bool) -> Iterator[Event[Any]]:
    """The events of a run; what it asks is put to the person at the terminal, or who writes to its input.

    Where the input has ended, a run that is not `alone` waits for somebody who answers from elsewhere; one
    that is gets cancelled, and UsageProblem is raised.
    """
    for event in run.events():
        if isinstance(event, Interrupted) and not _ask(run, event):
            if alone:
                run.cancel()
                raise UsageProblem("the run asks for an answer, and there is no more input to read one from")
            ERRORS.print(f"waiting for an answer: weft runs resume {run.id} --value …", markup=False)
        yield event


def _ask(run: Run[Any], asked: Interrupted) -> bool:
    """Read an answer that fits, unless none is waited for any more; false if the input has ended."""
    value = asked.value
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    ERRORS.print(shown, markup=False)
    while True:
        try:
            text = ERRORS.input("> ", markup=False)
        except EOFError:
            return False
        try:
            run.resume(_value(text, asked.type), node=asked.node)
        except Rejected as problem:
            ERRORS.print(problem.message, markup=False)
            if asked not in run.interrupts():
                return True
        else:
            return True


def _value(text: str, schema: str) -> Any:
    """What was typed, as JSON data: a text where one is wanted, else as JSON if it is that."""
    if json.loads(schema).get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
