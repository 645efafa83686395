"""asyncio: a task for every step, which begins as soon as those that it needs are done."""

from __future__ import annotations

import asyncio
from typing import Any

from plans.language import Each, Plan, Values

from .calls import Calls, Run, item_values, prepared

__all__ = ["gathered", "runner"]


def runner(plan: Plan, calls: Calls) -> Run:
    """All calls that do not need each other at the same time."""
    steps = {
        s.name: gathered(s, runner(s.body, calls)) if isinstance(s, Each) else prepared(s, calls, runner)
        for s in plan.steps
    }
    needs = {step.name: plan.before(step) for step in plan.steps}

    async def run(inputs: Values) -> Any:
        values = dict(inputs)
        tasks: dict[str, asyncio.Task[None]] = {}

        async def after(name: str) -> None:
            for before in needs[name]:
                await tasks[before]
            values[name] = await steps[name](values)

        async with asyncio.TaskGroup() as group:
            for name in steps:
                tasks[name] = group.create_task(after(name))
        return plan.value(values)

    return run


def gathered(step: Each, body: Run) -> Run:
    """The body for all items at once."""

    async def run(values: Values) -> Any:
        return list(await asyncio.gather(*map(body, item_values(step, values))))

    return run
