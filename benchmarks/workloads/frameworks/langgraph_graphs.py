"""LangGraph: StateGraphs of async nodes; the fan-out by `Send`, with a reducer."""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from ..noop import CHAIN, FAN_OUT, Arm
from ..noop_tools import join, step

__all__ = ["arm"]


class Chain(TypedDict):
    """What passes along the chain."""

    x: str


class FanOut(TypedDict):
    """What the parts add up to."""

    x: str
    parts: Annotated[list[str], operator.add]
    result: str


async def pass_on(state: Chain) -> dict[str, Any]:
    """A step of the chain."""
    return {"x": await step(state["x"])}


async def part(state: Chain) -> dict[str, Any]:
    """A step of the fan-out."""
    return {"parts": [await step(state["x"])]}


def parts(state: FanOut) -> list[Send]:
    """All steps of the fan-out."""
    return [Send("part", {"x": state["x"]}) for _ in range(FAN_OUT)]


async def joined(state: FanOut) -> dict[str, Any]:
    """What follows them."""
    return {"result": await join(state["parts"])}


def arm() -> Arm:
    """Both graphs, compiled."""
    chain = StateGraph(Chain)
    names = [START, *(f"step{number}" for number in range(CHAIN)), END]
    for name in names[1:-1]:
        chain.add_node(name, pass_on)
    for before, after in pairwise(names):
        chain.add_edge(before, after)
    fan_out = StateGraph(FanOut)
    fan_out.add_node("part", part)
    fan_out.add_node("join", joined)
    fan_out.add_conditional_edges(START, parts, ["part"])
    fan_out.add_edge("part", "join")
    fan_out.add_edge("join", END)
    chained, fanned = chain.compile(), fan_out.compile()

    async def run_chain(x: str) -> str:
        return str((await chained.ainvoke({"x": x}))["x"])

    async def run_fan_out(x: str) -> str:
        return str((await fanned.ainvoke({"x": x, "parts": []}))["result"])

    return Arm(run_chain, run_fan_out)
