"""What conditions, loops, folds and interrupts become."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from weft import (
    Var,
    cond,
    fold,
    gen,
    interrupt,
    loop,
    map,
    program,
    select,
)
from weft.graph.verify import verify

from .traced import Pair, State, Typed, text_of


def test_cond_with_values_and_known_predicates() -> None:
    def choose(flag: bool, other: str) -> Any:
        known = cond(True, "yes", lambda: gen("never"))
        return cond(flag, lambda: gen(f"a {other}"), other), known

    assert text_of(choose).splitlines()[2:] == [
        "%2 = cond(predicate=%0, v1=%1) -> text",
        "  then:",
        '    %0 = input("v1") -> text',
        '    %1 = generate(user("a ", v1=%0)) -> text, text',
        "    return %1",
        "  otherwise:",
        '    %0 = input("v1") -> text',
        "    return %0",
        '%3 = const("yes") -> text',
        '%4 = gather("list", 0=%2, 1=%3) -> array',
        "return %4",
    ]


def test_nested_bodies_take_values_from_all_around() -> None:
    def nested(xs: list[str], a: str) -> Any:
        return map(lambda x: map(lambda y: gen(f"{x}{y}{a}"), xs), xs)

    assert text_of(nested).splitlines()[2:] == [
        "%2 = map(items=%0, v0=%0, v1=%1) -> array",
        "  body:",
        '    %0 = input("item") -> text',
        '    %1 = input("v0") -> array',
        '    %2 = input("v1") -> text',
        "    %3 = map(items=%1, v0=%0, v2=%2) -> array",
        "      body:",
        '        %0 = input("item") -> text',
        '        %1 = input("v0") -> text',
        '        %2 = input("v2") -> text',
        "        %3 = generate(user(v0=%1, item=%0, v2=%2)) -> text, text",
        "        return %3",
        "    return %3",
        "return %2",
    ]


@pytest.mark.parametrize(
    "state",
    [{"text": "a", "turn": 1}, ("a", 1), ["a", 1], Pair("a", "b"), State("a", 1), Typed(name="a", age=1)],
)
def test_loops_over_structures(state: Any) -> None:
    seen: list[Any] = []

    def looped() -> Any:
        def body(now: Any) -> Any:
            seen.append(now)
            return now

        return loop(body, state, limit=2)

    graph = program(looped).graph()
    verify(graph)
    assert type(seen[0]) is type(state)
    parts = seen[0].values() if isinstance(state, dict) else _parts(seen[0])
    assert all(isinstance(part, (Var, list)) for part in parts)


def _parts(structure: Any) -> list[Any]:
    return list(structure) if isinstance(structure, (list, tuple)) else list(vars(structure).values())


def test_a_fold_is_a_body_over_a_state_and_an_item() -> None:
    def chained(parts: list[str], question: str) -> Any:
        def read(state: Any, part: Any) -> Any:
            answer, seen = state
            return gen(f"{question} {answer} {part}"), [seen[1], part]

        return fold(read, parts, ("unknown", ["", ""]), name="chain")

    text = text_of(chained)
    assert "fold(items=%0, state=%2, v1=%1)" in text
    assert "'chain'" in text
    verify(program(chained).graph())


def test_an_interrupt_asks_for_an_answer_of_a_type() -> None:
    def asked(draft: str) -> Any:
        verdict = interrupt({"draft": draft}, type=Literal["publish", "drop"], name="verdict", timeout=60)
        return verdict, interrupt("Why?")

    text = text_of(asked)
    assert "= interrupt(value=%1, timeout_s=60) -> str" in text
    assert "'verdict'" in text
    assert "= interrupt(value=%3) -> text" in text


def test_a_loop_until() -> None:
    def refine(draft: str) -> str:
        return loop(
            lambda text: gen(f"Improve {text}"),
            draft,
            until=lambda text: select(f"Good? {text}", ["yes", "no"]).equals("yes"),
            limit=5,
        )

    text = text_of(refine)
    assert "loop(state=%0, limit=5)" in text
    assert "return %1, %4" in text
