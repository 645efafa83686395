"""weft: a plan as one program over gRPC.

A plan without Python in between is a `def` program, which is compiled once; with `Compute` steps it is an
`async def`, which awaits what those take.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from plans.language import (
    ITEM,
    Ask,
    Branch,
    Compute,
    Each,
    Plan,
    Search,
    Step,
    Tool,
    Values,
    filled,
    found,
    reads,
)

from weft import Client, Context, Var, cond, map, program, search, tool
from weft.frontend.tools import Tool as ClientTool
from weft.frontend.verbs import Program

from .calls import Run

__all__ = ["as_program", "runner"]

_TOOLS: Final[dict[Any, ClientTool[..., Any]]] = {}
"""Tools have to be defined once."""


def runner(plan: Plan, client: Client, index: str, namespace: str = "", *, forced: bool = False) -> Run:
    """The plan as a program of that client. Runs of other namespaces share nothing of what is read.

    `forced`: texts have the length that their steps allow.
    """
    made = as_program(plan, index, forced=forced).using(client, namespace=namespace)

    async def run(inputs: Values) -> Any:
        return await made.ainvoke(**inputs)

    return run


@dataclass(frozen=True)
class _Place:
    """What a plan does not say."""

    index: str
    forced: bool


def as_program(plan: Plan, index: str, *, forced: bool = False) -> Program[..., Any]:
    """The plan in weft's language."""
    place = _Place(index, forced)
    grows = any(isinstance(step, Compute) for step in plan.steps)

    def application(**inputs: Any) -> Any:
        return _traced(plan, inputs, place)

    async def growing(**inputs: Any) -> Any:
        return await _grown(plan, inputs, place)

    written: Any = growing if grows else application  # a function gets the signature of the plan's inputs
    kind = inspect.Parameter.KEYWORD_ONLY
    types: dict[str, Any] = {name: list[str] if name in plan.lists else str for name in plan.inputs}
    parameters = [inspect.Parameter(name, kind, annotation=types[name]) for name in types]
    written.__signature__ = inspect.Signature(parameters)
    written.__annotations__ = types
    made: Program[..., Any] = program(written)
    return made


def _traced(plan: Plan, inputs: Values, place: _Place) -> Any:
    values = dict(inputs)
    for step in plan.steps:
        values[step.name] = _written(step, values, place)
    return plan.value(values)


async def _grown(plan: Plan, inputs: Values, place: _Place) -> Any:
    """What needs no Python is traced before anything is awaited."""
    values, rest = dict(inputs), list(plan.steps)
    while rest:
        ready = [step for step in rest if reads(step) <= values.keys()]
        step = next((step for step in ready if not isinstance(step, Compute)), ready[0])
        if isinstance(step, Compute):
            known = await asyncio.gather(*(_known(found(taken, values)) for taken in step.takes))
            values[step.name] = step.function(*known)
        else:
            values[step.name] = _written(step, values, place)
        rest.remove(step)
    return plan.value(values)


async def _known(value: Any) -> Any:
    if isinstance(value, Var):
        return await value
    if isinstance(value, list) and any(isinstance(item, Var) for item in value):
        return list(await asyncio.gather(*(_known(item) for item in value)))
    return value


def _written(step: Step, values: Values, place: _Place) -> Any:
    """A step as a person writes it."""
    match step:
        case Ask():
            context = Context()
            for role, text in step.messages:
                getattr(context, role)(filled(text, values))
            return context.gen(
                type=step.form, max_tokens=step.tokens, name=step.name, **step.ends(place.forced)
            )
        case Search():
            return search(place.index, found(step.query, values), k=step.k, name=step.name)
        case Tool():
            called = _TOOLS.setdefault(step.function, tool(idempotent=True)(step.function))
            return called(*(found(taken, values) for taken in step.takes))
        case Each():
            return _spread(step, values, place)
        case Branch():
            plan = step.otherwise
            inner = {name: values[name] for name in plan.inputs}
            taken = found(step.text, values).equals(step.equals)
            return cond(taken, found(step.then, values), lambda: _traced(plan, inner, place))
        case Compute():
            raise TypeError(f"step {step.name!r} is Python within the body of a list or a branch")


def _spread(step: Each, values: Values, place: _Place) -> Any:
    """A list of the run is mapped; over one that Python knows goes a loop."""
    around: Mapping[str, Any] = {name: values[name] for name in step.body.inputs if name != ITEM}
    items = found(step.over, values)

    def body(item: Any) -> Any:
        return _traced(step.body, {**around, ITEM: item}, place)

    return map(body, items) if isinstance(items, Var) else [body(item) for item in items]
