"""LangGraph: a StateGraph of async nodes; lists by `Send` and a reducer, as its documentation has it.

A node that waits for several has an edge from all of them; bodies of several steps are graphs that a node
invokes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from plans.language import Each, Plan, Step, Values

from .calls import Calls, Run, item_values, prepared, short

__all__ = ["runner"]

_NOTHING = {"nothing": True}  # what the node of an empty list gets, so that what waits for it goes on


def runner(plan: Plan, calls: Calls) -> Run:
    """The plan as a compiled graph."""
    graph = StateGraph(_state(plan))
    for step in plan.steps:
        _add(graph, plan, step, calls)
    for name in sorted(plan.results):
        graph.add_edge(_node(name) if name not in plan.inputs else START, END)
    compiled = graph.compile()

    async def run(inputs: Values) -> Any:
        return plan.value(await compiled.ainvoke(dict(inputs)))

    return run


def _state(plan: Plan) -> Any:
    typed_dict: Any = TypedDict  # whose fields are known at run time
    lists = {step.name for step in plan.steps if isinstance(step, Each)}
    names = [*plan.inputs, *(step.name for step in plan.steps)]
    kinds = {name: Annotated[list, operator.add] if name in lists else Any for name in names}
    return typed_dict("State", kinds, total=False)


def _node(name: str) -> str:
    """Nodes and fields of the state must not have the same names."""
    return f"do {name}"


def _add(graph: Any, plan: Plan, step: Step, calls: Calls) -> None:
    before = [_node(name) for name in plan.before(step)]
    if not isinstance(step, Each):
        graph.add_node(_node(step.name), _single(step, calls))
        graph.add_edge(before if len(before) > 1 else (before or [START])[0], _node(step.name))
        return
    source = (before or [START])[0]
    lists = {_node(other.name) for other in plan.steps if isinstance(other, Each)}
    if len(before) > 1 or source in lists:  # what chooses where to go is asked once for each item of a list
        source = f"before {step.name}"
        graph.add_node(source, lambda state: {})
        graph.add_edge(before, source)
    graph.add_node(_node(step.name), _item(step, calls))
    graph.add_conditional_edges(source, _spread(step), [_node(step.name)])


def _single(step: Step, calls: Calls) -> Callable[[Any], Any]:
    done = prepared(step, calls, runner)

    async def node(state: Any) -> dict[str, Any]:
        return {step.name: await done(state)}

    return node


def _spread(step: Each) -> Callable[[Any], list[Send]]:
    def spread(state: Any) -> list[Send]:
        items = item_values(step, state) or [_NOTHING]
        return [Send(_node(step.name), values) for values in items]

    spread.__name__ = f"spread {step.name}"  # two from one node must be told apart
    return spread


def _item(step: Each, calls: Calls) -> Callable[[Any], Any]:
    body = short(step.body, calls, runner)

    async def node(state: Any) -> dict[str, Any]:
        return {step.name: [] if _NOTHING.keys() <= state.keys() else [await body(state)]}

    return node
