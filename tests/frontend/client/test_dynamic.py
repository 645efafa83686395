"""Async programs, run over gRPC."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
from pydantic import BaseModel

from weft import (
    Context,
    Message,
    ProgramError,
    TraceError,
    gen,
    ingest,
    map,
    program,
    search,
    select,
    tool,
)
from weft.frontend.errors import RunCancelled, RunTimeout
from weft.graph.codec import decode_graph
from weft.graph.ops.user import Generate

if TYPE_CHECKING:
    from ..conftest import MiniServer


class Step(BaseModel):
    tool: Literal["look", "finish"]
    input: str


class Cited(BaseModel):
    answer: str


@tool
def look(what: str) -> str:
    return f"saw {what}"


@program
def plain(text: str) -> str:
    return gen(f"Say {text}")


@program
async def agent(question: str, turns: int = 2) -> str:
    context = Context(system="Act.").user(question)
    for _ in range(turns):
        step = await context.gen(type=Step)
        assert isinstance(step, Step)
        context.user(f"Observation: {look(step.input)}")
    return context.gen()


@program
async def converse(history: list[Message], text: str) -> list[Message]:
    chat = Context(system="Act.", messages=history).user(f"{text} {look(text)}")
    chat.gen()
    return chat.messages[1:]


@program
async def parallel(words: list[str]) -> list[str]:
    return list(await asyncio.gather(*(gen(f"Say {word}") for word in words)))


@program
async def outer(question: str) -> dict[str, Any]:
    inlined: Any = plain(question)  # a text to type checkers, and here a value that can be awaited
    awaited = await inlined
    inner = await agent(question, turns=0)
    return {"awaited": awaited, "inner": inner, "passages": str(await search("handbook", question, k=2))}


@program
async def constant(number: int) -> int:
    return number + 1


@program
async def raising() -> str:
    await gen("x")
    raise KeyError("mine")


@program
async def raising_no_text() -> str:
    raise OSError("no file a\udcffb")


@program
async def failing() -> str:
    return f"got {await gen('FAIL')}"


@program
async def sampled() -> list[str]:
    first = gen("x", temperature=1.0)
    await first
    return [first, map(lambda item: gen(f"y {item}", temperature=1.0), [1])[0]]


@program
async def filling() -> str:
    ingest("notes", ["a note"])
    return "done"


@program
async def filled() -> int:
    ingest("notes", ["a note"])
    found = await gen("wait")
    return len(await search("notes", found))


@program
async def waiting() -> str:
    await gen("first")
    await asyncio.sleep(30)
    return "never"


@program
async def hanging() -> str:
    text: str = await gen("HANG")
    return text


@program
async def wrong() -> int:
    text: Any = "many"
    return cast(int, text)  # which it is not


@program
async def leaking(kept: str) -> str:
    _leaked.append(gen("x"))
    return kept


_leaked: list[Any] = []


def test_a_value_that_is_to_come_is_no_argument_of_another_run(server: MiniServer) -> None:
    @program
    async def handing() -> str:
        return await plain.ainvoke(gen("x"))

    with pytest.raises(TraceError, match=r"test_dynamic\.py:\d+: .*'text' is a value .* await it, or call"):
        handing()


def test_messages_go_from_one_run_to_the_next(server: MiniServer) -> None:
    history = list[Message](converse([], "one"))
    assert history == [
        {"role": "user", "content": "one saw one"},
        {"role": "assistant", "content": "[<system>Act.<user>one saw one<assistant>]"},
    ]
    longer = list[Message](converse(history, "two"))
    assert longer[:2] == history
    past = "".join(f"<{message['role']}>{message['content']}" for message in longer[:3])
    assert longer[3]["content"] == f"[<system>Act.{past}<assistant>]"


def test_an_agent(server: MiniServer) -> None:
    result = agent("q")
    assert server.prompts[-1].count("Observation: saw word") == 2
    assert result == f"[{server.prompts[-1]}]"


async def test_an_agent_async(server: MiniServer) -> None:
    assert await agent.ainvoke("q", turns=0) == "[<system>Act.<user>q<assistant>]"


def test_an_empty_text_is_a_message_like_any_other(server: MiniServer) -> None:
    @program
    def traced(text: str) -> str:
        return gen(text)

    @program
    async def grown(text: str) -> str:
        return gen(text)

    assert traced("") == grown("") == "[<user><assistant>]"


def test_one_increment_for_what_is_awaited_together(server: MiniServer) -> None:
    assert parallel(["a", "b", "c"]) == [f"[<user>Say {word}<assistant>]" for word in "abc"]
    (extend,) = server.last.extends
    assert len(extend.wanted) == 3


def test_increments_hold_what_was_traced_between_two_awaits(server: MiniServer) -> None:
    agent("q", turns=1)
    first, second = [decode_graph(extend.increment) for extend in server.last.extends]
    assert [type(node.op) for node in first] == [Generate]
    assert [node.op.label() for node in second] == ["const", "tool", "generate"]
    assert set(second.outside) == {(0, 1)}


def test_programs_within_a_program(server: MiniServer) -> None:
    result = outer("q")
    assert result == {
        "awaited": "[<user>Say q<assistant>]",
        "inner": "[<system>Act.<user>q<assistant>]",
        "passages": "[1] passage 0\n[2] passage 1",
    }


def test_a_program_without_a_graph(server: MiniServer) -> None:
    assert constant(1) == 2
    assert server.last.finish is not None
    assert server.last.finish.result == "2"


def test_what_the_program_raises_is_raised(server: MiniServer) -> None:
    with pytest.raises(KeyError, match="mine"):
        raising()
    assert server.last.finish is not None
    assert server.last.finish.fault.message == "KeyError: 'mine'"


def test_what_a_program_raises_need_not_be_text(server: MiniServer) -> None:
    with pytest.raises(OSError, match="no file a\udcffb"):
        raising_no_text()
    assert server.last.finish is not None
    assert server.last.finish.fault.message == r"OSError: no file a\udcffb"


def test_a_failure_is_raised_at_the_await_and_names_its_line(server: MiniServer) -> None:
    with pytest.raises(
        ProgramError, match=r"program 'failing'.*test_dynamic\.py:\d+.*the model broke"
    ) as caught:
        failing()
    assert "failing" in {entry.name for entry in caught.traceback}


def test_samples_draw_a_seed_in_every_increment(server: MiniServer) -> None:
    sampled()
    sampled()
    assert len(set(server.seeds)) == 4


def test_what_nobody_waits_for_is_sent_before_the_end(server: MiniServer) -> None:
    assert filling() == "done"
    assert [node.op.label() for node in decode_graph(server.last.extends[-1].increment)] == [
        "const",
        "ingest",
    ]


def test_searches_come_after_the_ingest_of_an_earlier_increment(server: MiniServer) -> None:
    assert filled() == 3
    (search_node,) = decode_graph(server.last.extends[-1].increment).nodes[-1:]
    assert search_node.op.label() == "search"
    assert search_node.args["after"] == (1, 1)


def test_the_result_is_checked(server: MiniServer) -> None:
    with pytest.raises(ProgramError, match="does not return the declared int"):
        wrong()


def test_pieces_of_a_text_that_begins_at_the_end(server: MiniServer) -> None:
    assert list(agent.stream("q", turns=0)) == ["[<s", "ystem>Act.<user>q<assistant>]"]
    assert list(constant.stream(1)) == [2]


def test_batch(server: MiniServer) -> None:
    assert constant.batch([{"number": n} for n in range(5)]) == [1, 2, 3, 4, 5]


def test_cancelling_a_run_ends_its_program(server: MiniServer) -> None:
    run = waiting.submit()
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(timeout=10)
    assert run.status == "cancelled"


def test_time_that_is_over_ends_a_program_that_waits_for_something_else(server: MiniServer) -> None:
    with pytest.raises(RunTimeout):
        waiting.using(timeout=0.2).submit().result(timeout=10)


@program
async def unsendable(awaited: bool) -> Any:
    text: Any = gen("half a pair: \ud800")
    return await text if awaited else text


@pytest.mark.parametrize("awaited", [True, False])
def test_what_cannot_be_sent_is_raised_where_it_is_waited_for(server: MiniServer, awaited: bool) -> None:
    with pytest.raises(TraceError, match=r"test_dynamic\.py:\d+\) cannot be encoded: .*surrogates"):
        unsendable.submit(awaited).result(timeout=10)


@program
async def odd() -> list[str]:
    return ["\ud800"]


def test_a_result_that_is_no_json_ends_the_run(server: MiniServer) -> None:
    assert odd() == ["\ud800"]
    assert server.last.finish is not None
    assert "ud800" in json.loads(server.last.finish.result)


@program
async def endless() -> float:
    return math.inf


def test_a_result_that_json_has_no_number_for_reaches_the_caller(server: MiniServer) -> None:
    assert endless() == math.inf
    assert server.last.finish is not None
    assert json.loads(server.last.finish.result) == "Infinity"


@program
async def forgetful() -> Any:
    return constant(1)


def test_a_result_that_was_not_awaited_is_refused(server: MiniServer) -> None:
    with pytest.raises(TraceError, match="'forgetful' returned something to await; write `return await"):
        forgetful()


class Mood(StrEnum):
    CALM = "calm"
    CROSS = "cross"


def test_members_of_an_enum_are_chosen_from(server: MiniServer) -> None:
    @program
    async def mood(text: str) -> list[bool]:
        chosen, mixed = await asyncio.gather(select(text, list(Mood)), select(text, [Mood.CALM, "glad"]))
        written = await gen(text, choices=list(Mood))
        return [isinstance(value, Mood) for value in (chosen, mixed, written)]

    assert mood("Hm.") == [True, False, False]


@pytest.mark.parametrize(
    "use",
    [
        lambda given: gen(f"{given}"),
        lambda given: gen("a" + given),
        lambda given: gen(given[0]),
        lambda given: "a" if given else "b",
    ],
)
def test_a_program_that_was_not_awaited_goes_into_no_text(
    server: MiniServer, use: Callable[[Any], Any]
) -> None:
    @program
    async def hasty() -> Any:
        return use(constant(1))

    with pytest.raises(TraceError, match=r"test_dynamic\.py:\d+: the result of program 'constant' is used"):
        hasty()


def test_a_program_that_was_not_awaited_has_no_fields(server: MiniServer) -> None:
    @program
    async def hasty() -> Any:
        called: Any = constant(1)
        assert not hasattr(called, "strip")
        with pytest.raises(TraceError, match="used without an `await`"):
            called.strip()
        return await called

    assert hasty() == 2


def test_a_program_can_be_a_task_of_another(server: MiniServer) -> None:
    @program
    async def together() -> Any:
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(constant(1)), group.create_task(constant(2))
        return [first.result(), second.result(), *await asyncio.gather(constant(3), constant(4))]

    assert together() == [2, 3, 4, 5]


@program
async def leaving(how: str) -> str:
    await gen("a")
    if how == "exit":
        raise SystemExit(3)
    pytest.fail("of a test")


@pytest.mark.parametrize(("how", "error"), [("exit", SystemExit), ("fail", pytest.fail.Exception)])
def test_a_program_that_exits_cancels_its_run(
    server: MiniServer, how: str, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        leaving.submit(how).result(timeout=10)
    assert server.last.cancelled.wait(10)


async def test_cancelling_the_task_cancels_the_run(server: MiniServer) -> None:
    task = asyncio.create_task(hanging.ainvoke())
    while not (server.runs and server.prompts):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(server.last.cancelled.wait, 10)
    assert server.last.cancelled.is_set()


@program
async def using_text() -> str:
    text: str = await gen(f"more of {_leaked[0]}")
    return text


@program
async def using_value() -> int:
    return len(await search("handbook", _leaked[0]))


def test_values_of_one_run_mean_nothing_in_another(server: MiniServer) -> None:
    leaking("a")
    with pytest.raises(TraceError, match=r"test_dynamic\.py:\d+: the text holds a value of another trace"):
        using_text()
    with pytest.raises(TraceError, match="program 'leaking' is used outside of the run that made it"):
        using_value()


@program
async def growing() -> list[Any]:
    words = gen("x", type=list[str])
    marked = map(lambda word: gen(f"Mark {word}"), words)
    found = search("handbook", words)
    await asyncio.gather(words, marked, found)
    return [gen(f"{words}"), marked[0], found[0].text, map(lambda text: gen(f"{text}"), marked)]


def test_every_kind_of_value_can_be_taken_up_by_a_later_increment(server: MiniServer) -> None:
    both, marked, text, again = growing()
    assert both == "[<user>word\nword<assistant>]"
    assert marked == "[<user>Mark word<assistant>]"
    assert text == "passage 0"
    assert len(again) == 2


def test_a_sync_run_inside_an_async_program_is_refused(server: MiniServer) -> None:
    @program
    async def nested() -> str:
        return plain.invoke("x")

    with pytest.raises(TraceError, match="await its ainvoke"):
        nested()


async def test_in_async_code_a_call_is_awaited(server: MiniServer) -> None:
    called: Any = agent("Where?", turns=1)  # anything to type checkers: elsewhere it is the result
    assert await called == await agent.ainvoke("Where?", turns=1)


@program
async def made(text: str) -> Cited:
    return Cited(answer=gen(text))


def test_models_are_made_of_values_without_a_check(server: MiniServer) -> None:
    with pytest.raises(TraceError, match=r"test_dynamic\.py:\d+: Cited.*model_construct"):
        made("a")


def test_an_async_program_has_no_graph() -> None:
    with pytest.raises(TraceError, match="its graph grows"):
        agent.graph()


def test_an_async_program_cannot_be_detached(server: MiniServer) -> None:
    with pytest.raises(TraceError, match="cannot be detached"):
        agent.submit("q", detached=True)
