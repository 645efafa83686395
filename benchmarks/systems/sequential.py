"""Plain Python: one call after the other."""

from __future__ import annotations

from typing import Any

from plans.language import Each, Plan, Values

from .calls import Calls, Run, item_values, prepared

__all__ = ["runner"]


def runner(plan: Plan, calls: Calls) -> Run:
    """The steps in their order."""
    steps = {
        s.name: _one_by_one(s, calls) if isinstance(s, Each) else prepared(s, calls, runner)
        for s in plan.steps
    }

    async def run(inputs: Values) -> Any:
        values = dict(inputs)
        for name, step in steps.items():
            values[name] = await step(values)
        return plan.value(values)

    return run


def _one_by_one(step: Each, calls: Calls) -> Run:
    body = runner(step.body, calls)

    async def run(values: Values) -> Any:
        return [await body(around) for around in item_values(step, values)]

    return run
