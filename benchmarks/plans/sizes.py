"""Plans as large as the papers': longer passages, longer texts, more passages for each query."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

from pydantic import Field

from .language import Ask, Branch, Each, Plan, Search, Step
from .workload import Case, Sizes, Workload, World

__all__ = ["LABEL", "LINES", "MOST", "enlarged", "sized"]

LABEL: Final = 4
"""Texts of so many tokens or fewer are a verdict or a rating, and as long in a paper as here."""
LINES: Final = Annotated[
    list[Annotated[str, Field(min_length=30, max_length=50)]], Field(min_length=3, max_length=3)
]
"""A list as a model would write it that knows the task: three short sentences."""
MOST: Final = 128
"""Tokens in which such a list closes, whatever is drawn."""


def sized(workload: Workload, sizes: Sizes, *, forced: bool = False) -> Workload:
    """The workload in other sizes, which its `shape` names.

    `forced`: for a model that knows no task, which would write one item or thirty: lists are `LINES`.
    """

    def cases(world: World, count: int) -> list[Case]:
        return workload.cases(world.longer(sizes.passages), count)

    said = f"{workload.shape}; {sizes}" if sizes != Sizes() else workload.shape
    return replace(workload, plan=enlarged(workload.plan, sizes, forced=forced), cases=cases, shape=said)


def enlarged(plan: Plan, sizes: Sizes, *, forced: bool = False) -> Plan:
    """The plan with so many times the tokens in each text that is no label, and results of each search.

    Answers of a type keep their bound: they end when their type does.
    """

    def step(one: Step) -> Step:
        match one:
            case Ask(form=form, tokens=tokens) if form is str and tokens > LABEL:
                return replace(one, tokens=tokens * sizes.texts)
            case Ask(form=form) if forced and form == list[str]:
                return replace(one, form=LINES, tokens=max(one.tokens, MOST))
            case Search():
                return replace(one, k=one.k * sizes.found)
            case Each():
                return replace(one, body=enlarged(one.body, sizes, forced=forced))
            case Branch():
                return replace(one, otherwise=enlarged(one.otherwise, sizes, forced=forced))
            case _:
                return one

    return replace(plan, steps=tuple(map(step, plan.steps)))
