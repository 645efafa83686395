"""Haystack: async pipelines of components; the fan-out ends in a variadic input, all at the same time."""

from typing import Any

import haystack
from haystack import component
from haystack.core.component.types import Variadic

from ..noop import CHAIN, FAN_OUT, Arm
from ..noop_tools import join, step

# Annotations here are evaluated when functions are defined: Haystack reads from them what a component takes.

__all__ = ["arm"]


@component
class Step:
    """Passes its input on."""

    @component.output_types(x=str)
    def run(self, x: str) -> dict[str, str]:
        """Every component has it; async pipelines call the other."""
        return {"x": x}

    @component.output_types(x=str)
    async def run_async(self, x: str) -> dict[str, str]:
        """A step."""
        return {"x": await step(x)}


@component
class Join:
    """Counts its inputs."""

    @component.output_types(result=str)
    def run(self, parts: Variadic[str]) -> dict[str, str]:
        """Every component has it; async pipelines call the other."""
        return {"result": str(len(list(parts)))}

    @component.output_types(result=str)
    async def run_async(self, parts: Variadic[str]) -> dict[str, str]:
        """What follows the steps."""
        return {"result": await join(list(parts))}


def pipeline() -> Any:
    """An empty pipeline that can run asynchronously: every one can, since version 3."""
    return getattr(haystack, "AsyncPipeline", haystack.Pipeline)()


def arm() -> Arm:
    """Both pipelines."""
    chain, fan_out = pipeline(), pipeline()
    links = [f"step{number}" for number in range(CHAIN)]
    for number, name in enumerate(links):
        chain.add_component(name, Step())
        if number:
            chain.connect(f"{links[number - 1]}.x", f"{name}.x")
    parts = [f"part{number}" for number in range(FAN_OUT)]
    fan_out.add_component("join", Join())
    for name in parts:
        fan_out.add_component(name, Step())
        fan_out.connect(f"{name}.x", "join.parts")

    async def run_chain(x: str) -> str:
        return str((await chain.run_async({links[0]: {"x": x}}))[links[-1]]["x"])

    async def run_fan_out(x: str) -> str:
        data = {name: {"x": x} for name in parts}
        return str((await fan_out.run_async(data, concurrency_limit=FAN_OUT))["join"]["result"])

    return Arm(run_chain, run_fan_out)
