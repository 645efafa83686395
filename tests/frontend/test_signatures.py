"""What a program's parameters, its result and its kind of function may be, and what authors are told."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from pydantic import BaseModel, Field

from weft import Context, Static, TraceError, gen, program, tool

untyped_program: Callable[[Callable[..., Any]], Any] = program
untyped_tool: Callable[[Callable[..., Any]], Any] = tool

HERE = r"^tests/frontend/test_signatures\.py:\d+: "


class Cited(BaseModel):
    answer: str
    sources: list[str]


class OneWay(BaseModel):
    key: str = Field(serialization_alias="keyName")


def locked(lock: threading.Lock) -> str:
    return ""


def talking(context: Context) -> str:
    return ""


def told(text: str) -> Context:
    return gen(text)


@pytest.mark.parametrize(
    ("fn", "what"),
    [
        (locked, "the parameter 'lock' cannot be sent as JSON: .*lock"),
        (talking, "the parameter 'context' cannot be sent as JSON: Context has no JSON Schema"),
        (told, "the result cannot be sent as JSON: Context has no JSON Schema"),
    ],
)
def test_types_that_json_cannot_carry(fn: Callable[..., Any], what: str) -> None:
    with pytest.raises(TraceError, match=f"{HERE}program '{fn.__name__}': {what}") as caught:
        untyped_program(fn).graph()
    assert "arbitrary_types_allowed" not in str(caught.value)  # pydantic's advice would not help


def test_types_that_json_cannot_carry_are_refused_by_async_programs_too() -> None:
    @untyped_program
    async def user(lock: threading.Lock) -> str:
        return ""

    with pytest.raises(TraceError, match=f"{HERE}program 'user': the parameter 'lock' cannot be sent"):
        user.submit(threading.Lock())


def test_an_argument_that_its_own_model_does_not_read_again() -> None:
    @untyped_program
    async def user(one_way: OneWay) -> str:
        return ""

    said = "argument 'one_way': OneWay does not read what it writes as JSON: key: field required"
    with pytest.raises(TraceError, match=f"{HERE}program 'user': {said}"):
        user.submit(OneWay(key="x"))


def test_an_unknown_annotation_is_found_by_its_line() -> None:
    def user(text: str) -> str:
        return text

    user.__annotations__["text"] = "Elsewhere"
    with pytest.raises(TraceError, match=f"{HERE}program 'user': the annotation 'Elsewhere' is not defined"):
        program(user).graph()


def test_a_misspelt_argument_is_named_rather_than_the_one_that_is_missing() -> None:
    @untyped_program
    def user(question: str) -> str:
        return question

    with pytest.raises(TraceError, match=f"{HERE}.*unexpected keyword argument 'qestion'; it takes question"):
        user.submit(qestion="a")


def test_methods() -> None:
    with pytest.raises(TraceError, match=rf"{HERE}program 'ask' is a method.* write program\(self\.ask\)"):

        class Wrong:
            @untyped_program
            def ask(self, text: str) -> str:
                return text

    with pytest.raises(TraceError, match=r"tool 'look' is a method.* write tool\(self\.look\)"):

        class WrongToo:
            @untyped_tool
            def look(self, text: str) -> str:
                return text

    class Service:
        def __init__(self, tone: str) -> None:
            self.tone = tone
            self.ask = program(self._ask)
            self.look = untyped_tool(self._look)

        def _ask(self, text: str, size: Static[int] = 1) -> list[str]:
            looked = self.look(text)
            return [gen(f"{self.tone}: {looked}", max_tokens=size)]

        def _look(self, text: str) -> str:
            return text

    assert 'user("Brief: ", _look=' in str(Service("Brief").ask.graph(size=3))
    assert 'user("Long: ", _look=' in str(Service("Long").ask.graph())


def test_generators_are_no_programs() -> None:
    with pytest.raises(TraceError, match=rf"{HERE}program 'some' has a `yield`: .*stream\(\)"):

        @untyped_program
        def some(text: str) -> Iterator[str]:
            yield text

    with pytest.raises(TraceError, match=f"{HERE}program 'more' has a `yield`"):

        @untyped_program
        async def more(text: str) -> AsyncIterator[str]:
            yield text


def test_a_coroutine_is_no_result() -> None:
    @untyped_program
    def user(text: str) -> Any:
        async def later() -> str:
            return text

        return later()

    with pytest.raises(TraceError, match=f"{HERE}program 'user' returns a coroutine: make it an `async def`"):
        user.graph()


def test_a_result_that_is_known_by_now_is_checked_by_now() -> None:
    @untyped_program
    def forgot(text: str) -> str:
        gen(text)
        return cast(str, None)  # as without a `return`

    with pytest.raises(
        TraceError, match=f"{HERE}program 'forgot' does not return the declared str.*`return`"
    ):
        forgot.graph()

    @untyped_program
    def many(text: str) -> list[int]:
        wrong: list[Any] = ["a"]
        return wrong

    with pytest.raises(
        TraceError, match=r"'many' does not return the declared list\[int\]: \[0\]: input should"
    ):
        many.graph()

    @untyped_program
    def nothing(text: str) -> None:
        gen(text)

    nothing.graph()


@pytest.mark.parametrize(
    "use", [lambda text: "\n".join([gen(text), gen(text)]), lambda text: json.dumps({"text": text})]
)
def test_libraries_that_take_no_values_of_the_run_are_explained(use: Callable[[str], str]) -> None:
    def wrong(text: str) -> str:
        return use(text)

    with pytest.raises(TraceError, match=rf"{HERE}.*\bVar\b.*f-string.*let a tool do the work"):
        program(wrong).graph()


def test_type_errors_of_other_origin_stay_what_they_are() -> None:
    def wrong(text: str) -> str:
        raise TypeError("5 is no text")

    with pytest.raises(TypeError, match=r"^5 is no text$") as caught:
        program(wrong).graph()
    assert not isinstance(caught.value, TraceError)


def test_models_are_made_of_values_without_a_check() -> None:
    def wrong(text: str) -> Cited:
        return Cited(answer=gen(text), sources=[])

    with pytest.raises(TraceError, match=rf"{HERE}Cited\(\.\.\.\) checks .*Cited\.model_construct\(\.\.\.\)"):
        program(wrong).graph()

    @program
    def right(text: str) -> Cited:
        return Cited.model_construct(answer=gen(text), sources=[])

    right.graph()


def test_what_else_pydantic_finds_stays_its_own_error() -> None:
    @program
    def user(text: str) -> Any:
        return Cited.model_validate({"answer": "a"})

    with pytest.raises(ValueError, match=r"sources\n.*Field required"):
        user.graph()


def test_a_list_of_values_in_a_text() -> None:
    @program
    def user(text: str) -> str:
        words = [gen(text), gen(text)]
        return gen(f"Of {words}")

    with pytest.raises(TraceError, match=rf"{HERE}.*join\(f'{{x}}' for x in xs\)"):
        user.graph()
