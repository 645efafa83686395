"""Which functions are programs and tools, and what is said of those that cannot be."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

import weft
from weft import Static, TraceError, program, tool

untyped: Any = weft  # type checkers refuse some of what follows, as they should
gen, cond = untyped.gen, untyped.cond
untyped_program: Callable[[Callable[..., Any]], Any] = untyped.program

HERE = r"tests/frontend/test_definitions\.py:\d+\)?: "


class Point(BaseModel):
    x: int


def test_variadic_parameters_are_refused_at_the_decoration() -> None:
    with pytest.raises(
        TraceError, match=r"program 'many' has the parameter \*texts; .*take a list or a dict"
    ):

        @program
        def many(*texts: str) -> str:
            return ""

    with pytest.raises(TraceError, match=r"tool 'more' has the parameter \*\*options"):

        @tool
        def more(**options: str) -> str:
            return ""


def test_a_parameter_that_submit_takes_is_refused() -> None:
    with pytest.raises(TraceError, match="cannot be called 'detached'"):

        @program
        def mine(detached: bool) -> str:
            return ""

    with pytest.raises(TraceError, match="cannot be called 'stream'"):

        @program
        async def river(stream: str) -> str:
            return ""


def test_only_functions_are_programs() -> None:
    with pytest.raises(TraceError, match="@program decorates a function, not a ModelMetaclass"):
        program(Point)


def test_annotations_that_cannot_be_resolved() -> None:
    class Local(BaseModel):
        a: int

    @program
    def user(local: Local) -> str:
        return ""

    inspect.unwrap(user).__annotations__["local"] = "Elsewhere"
    with pytest.raises(TraceError, match="program 'user': the annotation 'Elsewhere' is not defined"):
        user.graph()


def test_defaults_are_checked() -> None:
    five: Any = 5

    @program
    def user(text: str = five) -> str:
        return text

    with pytest.raises(TraceError, match="default argument 'text' must be str"):
        user.graph()


def test_static_arguments_must_be_given_and_hashable() -> None:
    @program
    def user(words: Static[list[str]]) -> Any:
        return gen(words[0])

    with pytest.raises(TraceError, match="lacks the static argument 'words'"):
        user.graph()
    with pytest.raises(TraceError, match="static arguments must be hashable"):
        user.graph(words=["a"])


def test_a_program_that_calls_itself_without_end() -> None:
    @untyped_program
    def shorten(text: str) -> Any:
        return cond(gen(text, choices=["yes", "no"]).equals("yes"), text, lambda: shorten(text))

    @untyped_program
    def ping(text: str, depth: Static[int] = 2) -> Any:
        return pong(text, depth)

    @untyped_program
    def pong(text: str, depth: Static[int]) -> Any:
        return ping(text, depth)

    with pytest.raises(TraceError, match=f"{HERE}program 'shorten' calls itself .*Static parameter"):
        shorten.graph()
    with pytest.raises(TraceError, match=f"{HERE}program 'p.ng' calls itself without end"):
        ping.graph()


def test_a_static_parameter_ends_the_calls_of_a_program_to_itself() -> None:
    @untyped_program
    def refine(text: str, rounds: Static[int] = 3) -> Any:
        return refine(gen(f"Better: {text}"), rounds - 1) if rounds else text

    assert sum(node.op.label() == "generate" for node in refine.graph()) == 3
