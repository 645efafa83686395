"""LlamaIndex workflows: steps between typed events; the fan-out by `send_event`, as many workers as steps."""

from itertools import pairwise
from typing import Any

from workflows import Context, Workflow
from workflows import step as workflow_step
from workflows.events import Event, StartEvent, StopEvent

from ..noop import CHAIN, FAN_OUT, Arm
from ..noop_tools import join, step

# Annotations here are evaluated when functions are defined: workflows read from them what a step takes.

__all__ = ["arm"]


class Wanted(Event):
    """A step of the fan-out is to be done."""

    x: str


class Done(Event):
    """A step of the fan-out is done."""

    x: str


class FanOut(Workflow):
    """Steps at once, and one that joins them."""

    @workflow_step
    async def start(self, ctx: Context, ev: StartEvent) -> Wanted | None:
        """Ask for all steps."""
        for _ in range(FAN_OUT):
            ctx.send_event(Wanted(x=ev.x))
        return None

    @workflow_step(num_workers=FAN_OUT)
    async def part(self, ev: Wanted) -> Done:
        """One step."""
        return Done(x=await step(ev.x))

    @workflow_step
    async def joined(self, ctx: Context, ev: Done) -> StopEvent | None:
        """What follows once all have come."""
        parts = ctx.collect_events(ev, [Done] * FAN_OUT)
        return None if parts is None else StopEvent(result=await join([part.x for part in parts]))


def chain() -> type[Workflow]:
    """A workflow class with a step for each link, and an event type between every two."""
    between = [
        type(f"Between{number}", (Event,), {"__annotations__": {"x": str}, "__module__": __name__})
        for number in range(1, CHAIN)
    ]
    links = enumerate(pairwise([StartEvent, *between, StopEvent]))
    steps = {f"step{number}": link(f"step{number}", *events) for number, events in links}
    return type("Chain", (Workflow,), steps)


def link(name: str, taken: Any, given: Any) -> Any:
    """A step that takes one type of events and gives another."""

    async def run(self: Any, ev: Any) -> Any:
        x = await step(ev.x)
        return StopEvent(result=x) if given is StopEvent else given(x=x)

    run.__annotations__ = {"ev": taken, "return": given}
    run.__qualname__ = f"Chain.{name}"  # only methods can be steps
    return workflow_step(run)


def arm() -> Arm:
    """Both workflows."""
    chained, fanned = chain()(timeout=None), FanOut(timeout=None)

    async def run_chain(x: str) -> str:
        return str(await chained.run(x=x))

    async def run_fan_out(x: str) -> str:
        return str(await fanned.run(x=x))

    return Arm(run_chain, run_fan_out)
