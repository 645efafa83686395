"""Tools that run in the client's process."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import BaseModel

from weft import ProgramError, RetryPolicy, ToolEnded, gen, map, program, tool
from weft.frontend.client.toolbox import ClientTool, Toolbox
from weft.frontend.errors import RunTimeout, ToolError, TraceError
from weft.graph.ops.common import Tool
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.worker.engines.tool_loading import tool_of

if TYPE_CHECKING:
    from ..conftest import MiniServer


class Money(BaseModel):
    amount: int
    currency: str = "EUR"


user = contextvars.ContextVar("user", default="nobody")
threads: list[str] = []
attempts: list[int] = []


@tool
def price(item: str, discount: float = 0.5) -> Money:
    threads.append(threading.current_thread().name)
    return Money(amount=int(len(item) * 100 * discount))


@tool
async def slowly(money: Money) -> str:
    await asyncio.sleep(0)
    return f"{money.amount} {money.currency} for {user.get()}"


@tool
def broken(item: str) -> str:
    raise ZeroDivisionError(f"no {item}")


@tool
def unreadable() -> str:
    raise OSError("no file a\udcffb")


@tool(retry=RetryPolicy(attempts=3, backoff=0.0))
def flaky() -> int:
    attempts.append(1)
    if len(attempts) < 3:
        raise OSError("not yet")
    return len(attempts)


@tool(timeout=0.05)
async def late() -> str:
    await asyncio.sleep(30)
    return "never"


@tool(timeout=0.05)
def stuck() -> str:
    time.sleep(2)
    return "never"


@tool
def wrong() -> int:
    return cast(int, "many")  # as untyped code would hand it on


def excuse(problem: Exception) -> str:
    return f"sorry {user.get()}: {problem}"


@tool(on_error=excuse, retry=RetryPolicy(attempts=2, backoff=0.0), timeout=5)
def excused(item: str) -> str:
    attempts.append(1)
    if item == "mistake":
        return gen(item)  # a mistake in the program
    raise OSError(f"no {item}")


@tool(on_error=excuse, timeout=0.05)
async def excused_late() -> str:
    await asyncio.sleep(30)
    return "never"


@tool(on_error=lambda problem: cast(int, str(problem)))
def wrongly_excused() -> int:
    raise OSError("many")


@program
def shopping(items: list[str]) -> list[str]:
    return map(lambda item: gen(f"Buy {excused(item)}"), items)


@program
async def waiting() -> str:
    return await excused_late()


@program
def excusing() -> int:
    return wrongly_excused()


@program
def buy(item: str) -> str:
    return slowly(price(item))


@program
async def buy_async(item: str) -> str:
    money = price(item, discount=1.0)
    assert isinstance(await money, Money)
    return await slowly(money)


@tool
def budget(item: str) -> int:
    money = cast(Money, price(item))  # plain calls: of a tool, and of a program
    return money.amount + len(buy(item))


@program
async def budget_of(item: str) -> int:
    return await budget(item)


@program
async def budgets(items: list[str]) -> list[int]:
    return [await budget_of.ainvoke(item) for item in items]


@program
def breaking(item: str) -> str:
    return broken(item)


@program
def reading() -> str:
    return unreadable()


@program
def retrying() -> int:
    return flaky()


@program
def too_late() -> str:
    return late()


@program
def too_stuck() -> str:
    return stuck()


@program
def wrong_result() -> int:
    return wrong()


def test_sync_and_async_tools(server: MiniServer) -> None:
    token = user.set("me")
    try:
        assert buy("book") == "200 EUR for me"
    finally:
        user.reset(token)
    assert threads[-1] == "weft-tool"


async def test_async_tools_run_on_the_loop_of_the_caller(server: MiniServer) -> None:
    user.set("you")
    assert await buy.ainvoke("book") == "200 EUR for you"
    assert await buy_async.ainvoke("book") == "400 EUR for you"


def test_outside_of_programs_a_tool_is_its_function() -> None:
    assert price("ab", discount=1.0) == Money(amount=200)


async def test_a_tool_of_a_run_within_a_run_is_part_of_neither_program(server: MiniServer) -> None:
    assert await budgets(["ab", "abc"]) == [100 + len("100 EUR for nobody"), 150 + len("150 EUR for nobody")]


def test_what_a_tool_raises_is_the_cause(server: MiniServer) -> None:
    with pytest.raises(
        ToolError, match=r"program 'breaking'.*test_tools\.py.*ZeroDivisionError: no x"
    ) as caught:
        breaking("x")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_the_cause_is_what_that_tool_has_raised_which_has_ended_the_run() -> None:
    tools = cast(dict[str, ClientTool], {"broken": broken, "unreadable": unreadable})
    toolbox = Toolbox(tools, asyncio.get_running_loop(), contextvars.copy_context())
    for node, name, arguments in ((1, "broken", '{"item": "x"}'), (12, "unreadable", "{}")):
        await toolbox.answer(pb.ToolCall(node=node, tool=name, arguments=arguments))
    causes = [toolbox.cause_of(ToolError("", node=f"%{node} tool 'a'")) for node in (1, 12, 2)]
    assert [type(cause) for cause in causes] == [ZeroDivisionError, OSError, type(None)]


def test_what_a_tool_raises_need_not_be_text(server: MiniServer) -> None:
    with pytest.raises(ToolError, match=r"OSError: no file a\\udcffb"):
        reading()


def test_a_tool_is_tried_again(server: MiniServer) -> None:
    assert retrying() == 3


@pytest.mark.parametrize("slow", [too_late, too_stuck])
def test_a_tool_that_hangs_runs_out_of_time(server: MiniServer, slow: Any) -> None:
    with pytest.raises(RunTimeout, match=r"did not return within 0\.05 s"):
        slow()


def test_what_a_tool_gives_in_place_of_a_failure(server: MiniServer) -> None:
    attempts.clear()
    token = user.set("me")
    try:
        assert shopping(["tea", "milk"]) == [
            "[<user>Buy sorry me: no tea<assistant>]",
            "[<user>Buy sorry me: no milk<assistant>]",
        ]
    finally:
        user.reset(token)
    assert len(attempts) == 4
    ended = [
        event.error or event.result for event in shopping.events(["tea"]) if isinstance(event, ToolEnded)
    ]
    assert ended == ["OSError: no tea", "sorry nobody: no tea"]


async def test_what_a_tool_gives_that_is_out_of_time(server: MiniServer) -> None:
    assert await waiting() == "sorry nobody: tool 'excused_late' did not return within 0.05 s"
    (node,) = [node for node in server.last.live.nodes.values() if isinstance(node.op, Tool)]
    assert node.policy.timeout_s is None


def test_mistakes_in_tools_are_not_excused(server: MiniServer) -> None:
    attempts.clear()
    with pytest.raises(ToolError, match=r"gen\(\) stands outside of a program"):
        shopping(["mistake"])
    assert len(attempts) == 1
    with pytest.raises(ToolError, match="does not return the declared int"):
        excusing()


def test_a_result_of_the_wrong_type_is_a_failure_of_the_tool(server: MiniServer) -> None:
    with pytest.raises(ProgramError, match=r"does not return the declared int: .*valid integer"):
        wrong_result()


def test_the_server_can_load_a_tool_with_its_properties() -> None:
    @tool(idempotent=True)
    def lookup(item: str) -> str:
        return item

    @tool(pure=True)
    def double(number: int) -> int:
        return 2 * number

    assert [(t.idempotent, t.pure) for t in (broken, lookup, double)] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    for made in (broken, lookup, double):
        loaded = tool_of(made, "here")
        assert (loaded.name, loaded.idempotent, loaded.pure) == (made.name, made.idempotent, made.pure)
    name = "pure"
    with pytest.raises(AttributeError):
        setattr(lookup, name, True)


def test_a_detached_run_cannot_use_tools_of_this_process(server: MiniServer) -> None:
    with pytest.raises(TraceError, match="detached run cannot use"):
        buy.submit("x", detached=True)


def test_what_a_model_is_told_about_a_tool() -> None:
    assert price.name == "price"
    assert price.parameters["required"] == ["item"]
    assert price.parameters["properties"]["discount"]["type"] == "number"
