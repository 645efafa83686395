"""Static programs, run over gRPC."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import date
from http import HTTPMethod
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, field_validator

import weft
from weft import (
    Context,
    Passage,
    ProgramError,
    Static,
    TraceError,
    cond,
    fold,
    gen,
    loop,
    map,
    program,
    rerank,
    search,
    select,
    tool,
)
from weft.frontend.errors import ArgumentError

if TYPE_CHECKING:
    from ..conftest import MiniServer


class Step(BaseModel):
    tool: Literal["search", "finish"]
    input: str


class Strict(BaseModel):
    word: str

    @field_validator("word")
    @classmethod
    def long(cls, word: str) -> str:
        if len(word) < 100:
            raise ValueError("it must be long")
        return word


@dataclass
class Report:
    title: str
    steps: list[Step]


@program
def echo(text: str) -> str:
    return gen(f"Say {text}")


@program
def chat(question: str) -> tuple[str, str]:
    context = Context(system="Be brief.").user(question)
    draft = context.gen()
    return draft, context.user("Shorter!").gen()


def planned(topic: str) -> Any:
    step = gen(f"Plan {topic}", type=Step)
    return {"step": step, "pair": (step.input, 1), "samples": gen("x", n=2), "topic": topic}


del planned.__annotations__["return"]  # so that what is traced says of which type the result is
structured = program(planned)


@program
def report(topic: str) -> Report:
    return Report(title=f"On {topic}", steps=[gen("one", type=Step)])


@program
def answer(question: str, k: int = 2) -> list[Passage]:
    queries = gen(f"Queries for {question}", type=list[str])
    return rerank(question, search("handbook", queries), k=k)


@program
def controlled(words: list[str]) -> dict[str, Any]:
    marked = map(lambda word: gen(f"Mark {word}"), words)
    choice = select("Which?", ["no", "yes"])
    taken = cond(choice.equals("yes"), lambda: gen(f"Took {choice}"), "not taken")
    last, turns = loop(lambda s: (gen(f"More {s[0]}"), s[1]), ("go", 3), limit=2)
    whole = fold(lambda text, word: gen(f"{text} {word}"), words, "All:")
    return {"marked": marked, "taken": taken, "last": last, "turns": turns, "whole": whole}


@program
def repeated(times: Static[int], text: str) -> str:
    for _ in range(times):
        text = echo(text)
    return text


class Exact(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    method: HTTPMethod
    pair: tuple[int, str]


@program
def same(value: Exact) -> Exact:
    return value


@program
async def same_later(value: Exact) -> Exact:
    return value


def test_text(server: MiniServer) -> None:
    assert echo("hi") == "[<user>Say hi<assistant>]"
    assert echo.invoke(text="hi") == "[<user>Say hi<assistant>]"


async def test_text_async(server: MiniServer) -> None:
    assert await echo.ainvoke("hi") == "[<user>Say hi<assistant>]"


def test_a_conversation_goes_on_from_what_the_model_wrote(server: MiniServer) -> None:
    draft, short = chat("Why?")
    assert draft == "[<system>Be brief.<user>Why?<assistant>]"
    assert short == f"[<system>Be brief.<user>Why?<assistant>{draft}<user>Shorter!<assistant>]"


def test_results_keep_their_structure_and_types(server: MiniServer) -> None:
    result = structured("x")
    assert list(result) == ["step", "pair", "samples", "topic"]
    assert result["step"] == Step(tool="search", input="word")
    assert result["pair"] == ("word", 1)
    assert result["samples"] == ["[<user>x<assistant>]"] * 2
    assert result["topic"] == "x"


def test_a_dataclass_with_values_inside_is_returned(server: MiniServer) -> None:
    assert report("x") == Report("On x", [Step(tool="search", input="word")])


def test_passages_arrive_as_passages(server: MiniServer) -> None:
    assert [passage.text for passage in answer("q")] == ["passage 2", "passage 1"]
    assert [passage.text for passage in answer("q", k=1)] == ["passage 2"]


@program
def unchecked(text: str) -> Any:
    return {"strict": gen(text, type=Strict)}


def test_a_value_that_is_not_of_its_type_fails_the_run(server: MiniServer) -> None:
    with pytest.raises(ProgramError, match=r"program 'unchecked' returns .* not of its type: .*must be long"):
        unchecked("a")


def test_strict_models_take_what_json_has_for_dates_enums_and_tuples(server: MiniServer) -> None:
    given = Exact(day=date(2026, 1, 2), method=HTTPMethod.GET, pair=(1, "a"))
    assert same(given) == same_later(given) == given
    wrong: Any = {"day": "2026-01-02"}
    with pytest.raises(TraceError, match=r"'value' must be Exact: day: input should be a valid date"):
        same(wrong)


def test_control_flow(server: MiniServer) -> None:
    result = controlled(["a", "b"])
    assert result["marked"] == ["[<user>Mark a<assistant>]", "[<user>Mark b<assistant>]"]
    assert result["taken"] == "[<user>Took yes<assistant>]"
    assert result["last"] == "[<user>More [<user>More go<assistant>]<assistant>]"
    assert result["turns"] == 3
    assert result["whole"] == "[<user>[<user>All: a<assistant>] b<assistant>]"


@tool
def append(log: list[str], line: str) -> list[str]:
    return [*log, line]


class Notes(BaseModel):
    about: str
    log: list[str] = []


@program
def noted(words: list[str]) -> dict[str, Any]:
    def note(notes: Notes) -> Notes:
        return Notes.model_construct(about=notes.about, log=append(notes.log, notes.about))

    folded = fold(lambda state, word: (state[0], append(state[1], word)), words, ("fixed", ["start"]))
    return {"looped": loop(note, Notes(about="x"), limit=3), "folded": folded}


def test_lists_in_a_state_may_grow(server: MiniServer) -> None:
    result = noted(["a", "b"])
    assert result["looped"] == {"about": "x", "log": ["x", "x", "x"]}
    assert result["folded"] == ("fixed", ["start", "a", "b"])
    assert noted([])["folded"] == ("fixed", ["start"])


def test_static_arguments_shape_the_graph(server: MiniServer) -> None:
    assert repeated(1, "a") == echo("a")
    assert repeated(2, "a") == echo(echo("a"))


def test_a_program_within_a_program_needs_one_run(server: MiniServer) -> None:
    before = len(server.runs)
    repeated(3, "a")
    assert len(server.runs) == before + 1


def test_a_text_arrives_in_pieces(server: MiniServer) -> None:
    pieces = list(echo.stream("hi"))
    assert len(pieces) == 2
    assert "".join(pieces) == "[<user>Say hi<assistant>]"


async def test_a_text_arrives_in_pieces_async(server: MiniServer) -> None:
    assert [piece async for piece in echo.astream("hi")] == ["[<u", "ser>Say hi<assistant>]"]


def test_other_results_arrive_whole(server: MiniServer) -> None:
    assert list(report.stream("x")) == [report("x")]


def test_batch_keeps_the_order(server: MiniServer) -> None:
    calls: list[Any] = [{"text": "a"}, ("b",), ["c"]]
    assert echo.batch(calls, concurrency=2) == [echo("a"), echo("b"), echo("c")]


def test_runs_of_one_batch_belong_together(server: MiniServer) -> None:
    echo.batch([("a",), ("b",)])
    echo.batch([("a",), ("b",)])
    echo("a")
    *batches, alone = [run.start.submit.batch for run in list(server.runs.values())[-5:]]
    assert batches[0] == batches[1] != batches[2] == batches[3]
    assert all(batches)
    assert not alone


async def test_abatch(server: MiniServer) -> None:
    assert await echo.abatch([("a",)]) == [await echo.ainvoke("a")]


def test_batch_raises_the_first_failure(server: MiniServer) -> None:
    with pytest.raises(weft.ProgramError, match="the model broke"):
        echo.batch([("a",), ("FAIL",), ("HANG",)])


def test_batch_can_return_failures(server: MiniServer) -> None:
    good, bad = echo.batch([("a",), ("FAIL",)], return_exceptions=True)
    assert good == echo("a")
    assert isinstance(bad, weft.ProgramError)


def test_arguments_that_do_not_fit_are_failures_of_their_call(server: MiniServer) -> None:
    calls: list[Any] = [("a",), (None,), {"txt": "a"}, ("\udcff",)]
    good, *bad = echo.batch(calls, return_exceptions=True)
    assert good == echo("a")
    assert [type(problem) for problem in bad] == [ArgumentError] * 3
    assert dict(echo.batch_as_completed(calls, return_exceptions=True))[0] == good
    runs = len(server.runs)
    with pytest.raises(ArgumentError, match="must be str") as caught:
        echo.batch(calls)
    assert caught.value.__notes__ == ["in call 1 of the batch"]
    assert len(server.runs) == runs


def test_a_batch_can_be_taken_as_its_calls_end(server: MiniServer) -> None:
    calls = [("HANG",), ("FAIL",), ("a",)]
    results = echo.batch_as_completed(calls, return_exceptions=True)
    ended = dict([next(results), next(results)])
    results.close()
    assert ended.keys() == {1, 2}
    assert ended[2] == echo("a")
    assert isinstance(ended[1], weft.ProgramError)
    assert ended[1].__notes__ == ["in call 1 of the batch"]
    hanging = next(run for run in server.runs.values() if "HANG" in str(run.start))
    assert hanging.cancelled.wait(5)


async def test_abatch_as_completed(server: MiniServer) -> None:
    expected = await echo.ainvoke("a")
    results = echo.abatch_as_completed([("a",), ("a",)], concurrency=1)
    assert [one async for one in results] == [(0, expected), (1, expected)]
    with pytest.raises(ProgramError) as caught:
        [one async for one in echo.abatch_as_completed([("HANG",), ("FAIL",)])]
    assert caught.value.__notes__ == ["in call 1 of the batch"]


def test_batch_refuses_no_concurrency(server: MiniServer) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        echo.batch([("a",)], concurrency=0)


def test_runs_without_a_seed_draw_one_each(server: MiniServer) -> None:
    assert _sampled() == _sampled()
    assert len(set(server.seeds)) == 4


@program
def _sampled() -> list[str]:
    return [gen("x", temperature=1.0), map(lambda _: gen("y", temperature=1.0), [1])[0]]


def test_equal_seeds_are_kept(server: MiniServer) -> None:
    _seeded()
    _seeded()
    assert server.seeds == [5, 5]


@program
def _seeded() -> str:
    return gen("x", temperature=1.0, seed=5)


def test_explain_shows_every_pass(server: MiniServer) -> None:
    explanation = echo.explain()
    assert [step.name for step in explanation.passes][:2] == ["as written", "lower"]
    assert "generate" in explanation.passes[0].text
    assert "prefill" in str(explanation)
    assert explanation.passes[0].mermaid.startswith("flowchart")
    assert explanation.passes[0].graph == echo.graph()


@tool
def scripted(prompt: str) -> str:
    return f"<{prompt}>"


def test_a_tool_stands_in_for_a_model(server: MiniServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert echo("hi") == "[<user>Say hi<assistant>]"
    monkeypatch.setitem(globals(), "gen", lambda prompt, **options: scripted(prompt))
    assert program(inspect.unwrap(echo))("hi") == "<Say hi>"  # traced anew, as docs/language.md says
