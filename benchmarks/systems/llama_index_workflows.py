"""LlamaIndex workflows: steps, and events between them; lists by `send_event` and `collect_events`.

Every step gives an event with its value, which all steps that refer to it collect.
"""

from functools import reduce
from operator import or_
from typing import Any, Final

from plans.language import Each, Plan, Step, Values, reads
from workflows import Context, Workflow
from workflows import step as workflow_step
from workflows.events import Event, StartEvent, StopEvent

from .calls import Calls, Run, item_values, prepared, short

# Annotations here are evaluated when functions are defined: workflows read from them what a step takes.

__all__ = ["runner"]

_WORKERS: Final = 64  # items of one list at the same time


class Begun(StartEvent):
    """The inputs of the plan."""

    inputs: dict[str, Any]


def runner(plan: Plan, calls: Calls) -> Run:
    """The plan as a workflow."""
    workflow = _Builder(plan, calls).workflow()(timeout=None)

    async def run(inputs: Values) -> Any:
        return await workflow.run(start_event=Begun(inputs=dict(inputs)))

    return run


class _Builder:
    """Makes the class of a plan's workflow."""

    def __init__(self, plan: Plan, calls: Calls) -> None:
        self._plan = plan
        self._calls = calls
        self._done = {step.name: _event(step.name, value=Any) for step in plan.steps}
        self._steps: dict[str, Any] = {}

    def workflow(self) -> Any:
        for step in self._plan.steps:
            if isinstance(step, Each):
                self._add_each(step)
            else:
                self._add_single(step)
        self._add_last()
        return type("PlanWorkflow", (Workflow,), self._steps)

    def _taken(self, names: frozenset[str]) -> dict[str, Any]:
        """The events that hold the values of these names, by the name of the step; "" for the inputs."""
        events = {name: event for name, event in self._done.items() if name in names}
        return {"": Begun, **events} if names & set(self._plan.inputs) or not events else events

    def _add(self, name: str, run: Any, taken: Any, given: Any, workers: int = 4) -> None:
        run.__annotations__ = {"ctx": Context, "ev": taken, "return": given}
        run.__name__ = name
        run.__qualname__ = f"PlanWorkflow.{name}"  # only methods can be steps
        self._steps[name] = workflow_step(num_workers=workers)(run)

    def _collected(self, names: frozenset[str]) -> tuple[Any, Any]:
        """The type of the events for a step, and what gives the values once all of them have come."""
        events = self._taken(names)

        def values(ctx: Context, ev: Any) -> dict[str, Any] | None:
            come = [ev] if len(events) == 1 else ctx.collect_events(ev, list(events.values()))
            if come is None:
                return None
            known: dict[str, Any] = {}
            for name, event in zip(events, come, strict=True):
                known.update({name: event.value} if name else event.inputs)
            return known

        return reduce(or_, events.values()), values

    def _add_single(self, step: Step) -> None:
        done, ready = self._done[step.name], prepared(step, self._calls, runner)
        accepted, collected = self._collected(reads(step))

        async def run(self: Any, ctx: Context, ev: Any) -> Any:
            values = collected(ctx, ev)
            if values is None:
                return None
            return done(value=await ready(values))

        self._add(step.name, run, accepted, done | None)

    def _add_each(self, step: Each) -> None:
        done, body = self._done[step.name], short(step.body, self._calls, runner)
        wanted = _event(f"{step.name}_wanted", place=int, around=Any)
        given = _event(f"{step.name}_given", place=int, value=Any)
        accepted, collected = self._collected(reads(step))

        async def spread(self: Any, ctx: Context, ev: Any) -> Any:
            values = collected(ctx, ev)
            if values is None:
                return None
            items = item_values(step, values)
            await ctx.store.set(step.name, len(items))
            for place, around in enumerate(items):
                ctx.send_event(wanted(place=place, around=around))
            return None if items else done(value=[])

        async def item(self: Any, ctx: Context, ev: Any) -> Any:
            return given(place=ev.place, value=await body(ev.around))

        async def join(self: Any, ctx: Context, ev: Any) -> Any:
            come = ctx.collect_events(ev, [given] * await ctx.store.get(step.name))
            if come is None:
                return None
            return done(value=[one.value for one in sorted(come, key=lambda one: one.place)])

        self._add(f"{step.name}_spread", spread, accepted, wanted | done | None)
        self._add(f"{step.name}_item", item, wanted, given, _WORKERS)
        self._add(f"{step.name}_join", join, given, done | None)

    def _add_last(self) -> None:
        plan = self._plan
        accepted, collected = self._collected(plan.results)

        async def last(self: Any, ctx: Context, ev: Any) -> Any:
            values = collected(ctx, ev)
            return None if values is None else StopEvent(result=plan.value(values))

        self._add("last_of_all", last, accepted, StopEvent | None)


def _event(name: str, **fields: Any) -> Any:
    return type(f"Event_{name}", (Event,), {"__annotations__": fields, "__module__": __name__})
