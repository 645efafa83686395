"""Haystack: an async pipeline with a component for each step; a list is one of them, as it has no fan-out.

As many components run at the same time as can.
"""

from __future__ import annotations

import asyncio
from typing import Any

from haystack import component
from plans.language import Each, Plan, Step, Values, reads
from workloads.frameworks.haystack_pipelines import pipeline

from .calls import Calls, Run, prepared, short
from .gathered import gathered

__all__ = ["runner"]


@component
class Done:
    """A step."""

    def __init__(self, step: Step, calls: Calls) -> None:
        self._done = (
            gathered(step, short(step.body, calls, runner))
            if isinstance(step, Each)
            else prepared(step, calls, runner)
        )
        component.set_input_types(self, **dict.fromkeys(sorted(reads(step)), Any))

    @component.output_types(value=Any)
    def run(self, **values: Any) -> dict[str, Any]:
        """Every component has it; async pipelines call the other."""
        return asyncio.run(self.run_async(**values))

    @component.output_types(value=Any)
    async def run_async(self, **values: Any) -> dict[str, Any]:
        """The result of the step."""
        return {"value": await self._done(values)}


def runner(plan: Plan, calls: Calls) -> Run:
    """The plan as a pipeline."""
    steps = {step.name: step for step in plan.steps}
    made = pipeline()
    for name, step in steps.items():
        made.add_component(name, Done(step, calls))
    for name, step in steps.items():
        for taken in sorted(reads(step) & steps.keys()):
            made.connect(f"{taken}.value", f"{name}.{taken}")
    wanted = set(plan.results & steps.keys())

    async def run(inputs: Values) -> Any:
        data = {n: {i: inputs[i] for i in sorted(reads(s) & set(plan.inputs))} for n, s in steps.items()}
        given = await made.run_async(data, include_outputs_from=wanted, concurrency_limit=len(steps))
        return plan.value({**inputs, **{name: given[name]["value"] for name in wanted}})

    return run
