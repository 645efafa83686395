"""`map`, `fold`, `cond` and `loop`: control flow over values that only the run will know."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

from weft.graph import schema as json_schema
from weft.graph.ir import Graph, Value
from weft.graph.ops.common import Input
from weft.graph.ops.control import Cond, Fold, Loop, Map
from weft.graph.types import BOOLEAN, JSON, TEXT, Data, Text, Type

from .errors import TraceError
from .lifting import Fields, Leaf, Lifted, Shape, joined, lifted
from .location import located
from .pytypes import ANYTHING, PyType, py_type
from .trace import BodyTrace, Trace, current
from .var import Var

__all__ = ["cond", "fold", "loop", "map"]


R = TypeVar("R")
S = TypeVar("S")
Scalar = TypeVar("Scalar", bound=str | float | None)  # to type checkers a bool or an int is a float, too

_One = Callable[[Any], Any]
_Turn = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class _Body:
    """A traced body: its graph, what it takes from around it, and the structure of its (first) result."""

    graph: Graph
    captured: dict[str, Value]
    shape: Shape

    @property
    def type(self) -> Type:
        """The type of the first result."""
        return self.graph.types[self.graph.outputs[0]]


@overload
def map(
    fn: Callable[[Any], Var[R]],
    xs: Sequence[Any] | Var[Any],
    *,
    concurrency: int | None = None,
    name: str = "",
) -> Var[list[R]]: ...
@overload
def map(
    fn: Callable[[Any], R],
    xs: Sequence[Any] | Var[Any],
    *,
    concurrency: int | None = None,
    name: str = "",
) -> Var[list[R]]: ...


def map(
    fn: Callable[[Any], Any],
    xs: Sequence[Any] | Var[Any],
    *,
    concurrency: int | None = None,
    name: str = "",
) -> Var[list[Any]]:
    """`fn` of every item of a list, at most `concurrency` at a time; the list of the results, in order.

    `fn` is called once, with a `Var` for the item; it may use `Var`s from around it. Without `concurrency`
    the server's own bound holds. Items of a list that a model is still writing begin as each is closed.
    Raises TraceError.
    """
    trace = current("map()")
    _expect_plain("map", fn, "item")
    if concurrency is not None:
        _expect_positive("concurrency of map()", concurrency)
    whole = lifted(xs if isinstance(xs, Var) else list(xs), trace)
    items = whole.value(trace)
    item_type, item_pytype = _item("map", trace, items, xs)
    body = _trace_body(trace, {Map.ITEM: (item_type, Leaf(item_pytype))}, lambda item: (fn(item),))
    op = Map(body.graph, concurrency or 0)
    value = trace.add(op, {"items": items, **body.captured}, name=name)
    leaf = body.shape.pytype if isinstance(body.shape, Leaf) else ANYTHING
    return trace.var(value, leaf.list_of())


@overload
def fold(fn: _Turn, xs: Sequence[Any] | Var[Any], start: Var[S], *, name: str = "") -> Var[S]: ...
@overload
def fold(fn: _Turn, xs: Sequence[Any] | Var[Any], start: Scalar, *, name: str = "") -> Var[Scalar]: ...
@overload
def fold(fn: _Turn, xs: Sequence[Any] | Var[Any], start: S, *, name: str = "") -> S: ...


def fold(fn: _Turn, xs: Sequence[Any] | Var[Any], start: Any, *, name: str = "") -> Any:
    """Replace the state, at first `start`, by `fn(state, item)` for each item of a list; the last state.

    `fn` is called once, with `Var`s for the state and the item. The state may be a tuple, a dict or another
    structure of values; the next state must have the same structure. Raises TraceError.
    """
    trace = current("fold()")
    _expect_plain("fold", fn, "state", "item")
    whole = lifted(xs if isinstance(xs, Var) else list(xs), trace)
    items = whole.value(trace)
    item_type, item_pytype = _item("fold", trace, items, xs)
    first = lifted(start, trace, apart=True)
    state = first.value(trace)
    taken: dict[str, tuple[Type, Shape]] = {Fold.ITEM: (item_type, Leaf(item_pytype))}

    def turn(*given: Any) -> tuple[Any]:
        return (_given("fold", fn(*given), start),)

    traced = _next_state("fold", trace, turn, first, trace.types[state], taken)
    value = trace.add(Fold(traced.graph), {"items": items, "state": state, **traced.captured}, name=name)
    return traced.shape.view(trace.var(value))


@overload
def cond(
    pred: Var[Any] | bool,
    then: Callable[[], Var[R]],
    otherwise: Callable[[], Var[R]],
    *,
    name: str = "",
) -> Var[R]: ...
@overload
def cond(pred: Var[Any] | bool, then: Any, otherwise: Any, *, name: str = "") -> Var[Any]: ...


def cond(pred: Var[Any] | bool, then: Any, otherwise: Any, *, name: str = "") -> Var[Any]:
    """`then` if `pred` is true, else `otherwise`: functions without arguments, or values.

    Only the branch that is taken runs. A `pred` that is a Python bool is decided at once. Raises TraceError.
    """
    trace = current("cond()")
    if isinstance(pred, bool):
        decided: Var[Any] = _call(then if pred else otherwise)
        return decided
    _expect_bool("pred", pred)
    bodies = [_trace_body(trace, {}, lambda branch=branch: (_call(branch),)) for branch in (then, otherwise)]
    captured = bodies[0].captured | bodies[1].captured
    op = Cond(bodies[0].graph, bodies[1].graph)
    value = trace.add(op, {"predicate": trace.own(pred), **captured}, name=name)
    same = bodies[0].shape == bodies[1].shape
    shape = bodies[0].shape if same else Leaf(ANYTHING)
    viewed: Var[Any] = shape.view(trace.var(value))
    return viewed


@overload
def loop(
    body: _One, state: Var[S], *, until: _One | None = None, limit: int = 16, name: str = ""
) -> Var[S]: ...
@overload
def loop(
    body: _One, state: Scalar, *, until: _One | None = None, limit: int = 16, name: str = ""
) -> Var[Scalar]: ...
@overload
def loop(body: _One, state: S, *, until: _One | None = None, limit: int = 16, name: str = "") -> S: ...


def loop(body: _One, state: Any, *, until: _One | None = None, limit: int = 16, name: str = "") -> Any:
    """Replace `state` by `body(state)` until `until(state)` is true, or `limit` times; the last state.

    The body runs at least once. The state may be a tuple, a dict or another structure of values; the next
    state must have the same structure. Without `until` the body runs `limit` times. Raises TraceError.
    """
    trace = current("loop()")
    _expect_plain("loop", body, "state")
    if until is not None:
        _expect_plain("loop", until, "state")
    _expect_positive("limit of loop()", limit)
    first = lifted(state, trace, apart=True)
    start = first.value(trace)

    def turn(before: Any) -> tuple[Any, Any]:
        after = _given("loop", body(before), state)
        return after, (until(after) if until is not None else False)

    traced = _next_state("loop", trace, turn, first, trace.types[start], {})
    _expect_stop(traced)
    value = trace.add(Loop(traced.graph, limit), {"state": start, **traced.captured}, name=name)
    return traced.shape.view(trace.var(value))


def _next_state(
    what: str,
    trace: Trace,
    turn: Callable[..., tuple[Any, ...]],
    first: Lifted,
    kind: Type,
    others: dict[str, tuple[Type, Shape]],
) -> _Body:
    """A body that takes a state and `others`, and gives the next state first.

    It is traced for states of the first one's type, or of any type if the next one's differs. A part of the
    state that does not keep its structure, such as a list that grows, is one value to the body.
    """
    shape = first.shape
    while True:
        traced = _trace_body(trace, {Loop.STATE: (kind, shape), **others}, turn, apart=True)
        if _form(traced.shape) != _form(first.shape):
            raise TraceError(
                located(f"the body of {what}() must give a state of the same structure as it takes")
            )
        kept = joined(shape, traced.shape)
        if kept == shape:
            break
        shape = kept
    if traced.type != kind and not isinstance(kind, Text) and kind != JSON:
        traced = _trace_body(trace, {Loop.STATE: (JSON, shape), **others}, turn, apart=True)
    return replace(traced, shape=joined(traced.shape, shape))


def _form(shape: Shape) -> tuple[type, frozenset[str]]:
    return type(shape), frozenset(shape.fields) if isinstance(shape, Fields) else frozenset()


def _given(what: str, after: Any, first: Any) -> Any:
    if after is None and first is not None:
        raise TraceError(located(f"the body of {what}() gives no next state: is a `return` missing?"))
    return after


def _expect_stop(traced: _Body) -> None:
    kind = traced.graph.types[traced.graph.outputs[1]]
    if kind not in (BOOLEAN, JSON):
        raise TraceError(
            located(f"until of loop() must give true or false, not {kind}; compare with x.equals(y)")
        )


def _trace_body(
    trace: Trace,
    inputs: dict[str, tuple[Type, Shape]],
    fn: Callable[..., tuple[Any, ...]],
    *,
    apart: bool = False,
) -> _Body:
    inner = BodyTrace(trace)
    arguments: list[Any] = []
    for name, (kind, shape) in inputs.items():
        value = inner.add(Input(name, kind), {}, location="")
        with inner.active():
            arguments.append(shape.view(inner.var(value)))
    with inner.active():
        results = [lifted(result, inner, apart=apart) for result in fn(*arguments)]
        outputs = tuple(result.value(inner) for result in results)
    inner.closed = True
    return _Body(inner.graph(outputs), inner.captured, results[0].shape)


def _item(what: str, trace: Trace, items: Value, xs: object) -> tuple[Type, PyType]:
    """The types of the items of a list. Raises TraceError for what is no list."""
    kind = trace.types[items]
    if not isinstance(kind, Data):
        raise TraceError(located(f"{what}() needs a list, not {kind}"))
    known = json_schema.item(kind.schema)
    pytype = xs._pytype.item() if isinstance(xs, Var) else ANYTHING
    if json.loads(known).get("type") == "string":
        return TEXT, pytype if pytype != ANYTHING else py_type(str)
    return Data(known), pytype


def _call(branch: Any) -> Any:
    if isinstance(branch, Var) or not callable(branch):
        return branch
    _expect_plain("cond", branch)
    return branch()


def _expect_bool(what: str, value: object) -> None:
    if not isinstance(value, Var) or value._type not in (BOOLEAN, JSON):
        kind = value._type if isinstance(value, Var) else type(value).__name__
        raise TraceError(located(f"{what} must be true or false, not {kind}; compare with x.equals(y)"))


def _expect_positive(what: str, number: object) -> None:
    if type(number) is not int or number < 1:
        raise TraceError(located(f"{what} must be a positive whole number, not {number!r}"))


def _expect_plain(what: str, fn: object, *takes: str) -> None:
    """Raises TraceError for what is no plain function of as many parameters as `takes` names."""
    if not callable(fn):
        raise TraceError(located(f"{what}() needs a function, not a {type(fn).__name__}"))
    if inspect.iscoroutinefunction(fn):
        raise TraceError(
            located(f"{what}() traces its function once, so it cannot be async; write it as a plain def")
        )
    try:
        signature = inspect.signature(fn)
    except ValueError:  # some of Python's own functions do not tell
        return
    try:
        signature.bind(*takes)
    except TypeError as problem:
        name, given = getattr(fn, "__name__", type(fn).__name__), ", ".join(takes)
        taken = ", ".join(signature.parameters)
        raise TraceError(
            located(
                f"{what}() calls its function as f({given}), and {name}({taken}) does not take that: "
                f"{problem}; write lambda{given and ' '}{given}: …"
            )
        ) from None
