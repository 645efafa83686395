"""A worker with server-side tools, driven over gRPC."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from weft.graph.codec import decode_type, node_bytes
from weft.graph.ir import Node, Value
from weft.graph.ops.common import Tool
from weft.graph.types import INTEGER, JSON, TEXT, Type
from weft.graph.values import Json, TextValue
from weft.proto import worker_pb2
from weft.runtime.worker.engines.base import StartError
from weft.runtime.worker.engines.tool import ToolEngine

from .conftest import Link, StartWorker

SOURCE = '''
import asyncio, sys, threading, time
from dataclasses import dataclass

@dataclass
class Point:
    x: int
    y: int = 0

released = threading.Event()
cancelled = threading.Event()

def add(a: int, b: int = 1) -> int:
    """The sum."""
    return a + b

async def shout(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()

def mirror(point: Point) -> Point:
    assert isinstance(point, Point)
    return Point(point.y, point.x)

def anything(**arguments):
    return arguments

def raises(text: str) -> str:
    raise LookupError(f"no {text}")

def raises_no_text() -> str:
    raise OSError("no file a\\udcffb")

def exits() -> str:
    sys.exit(3)

async def raises_later() -> str:
    raise StopAsyncIteration

async def gives_up() -> str:
    raise asyncio.CancelledError

def lies() -> int:
    return "seven"

def unspeakable():
    return object()

def half_a_pair() -> str:
    return "a\\ud800"

def hangs() -> str:
    released.wait()
    return "late"

async def sleeps() -> str:
    try:
        await asyncio.sleep(3600)
    finally:
        cancelled.set()

def thread() -> str:
    return threading.current_thread().name

def positional(a, /): ...
def bad_hint(a: "Nowhere"): ...
number = 7
'''

NAMES = (
    "add",
    "anything",
    "exits",
    "gives_up",
    "half_a_pair",
    "hangs",
    "lies",
    "mirror",
    "raises",
    "raises_later",
    "raises_no_text",
    "shout",
    "sleeps",
    "thread",
    "unspeakable",
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a new module with tools."""
    name = f"tools_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
async def worker(start_worker: StartWorker, module: str) -> Link:
    return await start_worker(ToolEngine([f"{module}:{name}" for name in NAMES]))


def call(tool: str, result: Type = JSON, **args: Value) -> Node:
    return Node(1, Tool(tool, result, "server"), args, location="app.py:7")


async def test_a_tool_is_called_with_its_operands(worker: Link) -> None:
    await worker.run(call("add", INTEGER, a=Value(0), b=Value(2)), values={"%0": Json(3), "%2": Json(4)})
    assert await worker.results(1) == (Json(7),)
    assert (await worker.done(1)).timing.compute > 0
    await worker.run(call("add", INTEGER, a=Value(0)), run="s", values={"%0": Json(3)})
    assert await worker.results(1, "s") == (Json(4),)


async def test_async_tools_run_too(worker: Link) -> None:
    await worker.run(call("shout", TEXT, text=Value(0)), values={"%0": TextValue("hey")})
    assert await worker.results(1) == (TextValue("HEY"),)


async def test_arguments_and_results_are_converted(worker: Link) -> None:
    await worker.run(call("mirror", point=Value(0)), values={"%0": Json({"x": 1, "y": 2})})
    assert await worker.results(1) == (Json({"x": 2, "y": 1}),)
    await worker.run(call("anything", p=Value(0)), run="s", values={"%0": Json([1])})
    assert await worker.results(1, "s") == (Json({"p": [1]}),)


async def test_values_may_be_larger_than_messages_usually_are(worker: Link) -> None:
    text = "x" * (20 << 20)
    await worker.run(call("shout", TEXT, text=Value(0)), values={"%0": TextValue(text)})
    assert await worker.results(1) == (TextValue(text.upper()),)


async def test_sync_tools_run_in_threads_of_their_own(worker: Link) -> None:
    await worker.run(call("thread"))
    assert await worker.results(1) == (Json("weft-tool-thread"),)


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ("exits", "tool 'exits' raised SystemExit: 3"),
        ("raises_later", "tool 'raises_later' raised StopAsyncIteration"),
        ("raises_no_text", r"tool 'raises_no_text' raised OSError: no file a\udcffb"),
        ("lies", "tool 'lies' gave what it did not promise: the result must be integer, not string 'seven'"),
        ("unspeakable", "tool 'unspeakable' gave what it did not promise: Unable to serialize"),
    ],
)
async def test_a_tool_that_misbehaves_is_a_fault(worker: Link, tool: str, message: str) -> None:
    await worker.run(call(tool, INTEGER))
    fault = await worker.fault(1)
    assert fault.code == "tool_failed"
    assert fault.message.startswith(message)
    assert "Traceback" not in fault.message
    assert (fault.node, fault.location) == ("%1 tool", "app.py:7")
    await worker.run(call("add", INTEGER, a=Value(0)), run="s", values={"%0": Json(3)})
    await worker.done(1, "s")


async def test_a_tool_that_raises_is_a_fault_with_its_words(worker: Link) -> None:
    await worker.run(call("raises", TEXT, text=Value(0)), values={"%0": TextValue("luck")})
    fault = await worker.fault(1)
    assert (fault.code, fault.message) == ("tool_failed", "tool 'raises' raised LookupError: no luck")


async def test_a_result_that_no_message_holds_is_no_fault_of_who_asks(worker: Link) -> None:
    await worker.run(call("half_a_pair", TEXT))
    fault = await worker.fault(1)
    assert fault.code == "internal"
    assert fault.message.startswith("the result cannot be sent: a TextValue cannot be encoded")


async def test_an_async_tool_that_cancels_itself_is_a_fault(worker: Link) -> None:
    await worker.run(call("gives_up", TEXT))
    assert (await worker.fault(1)).code == "cancelled"
    await worker.status(running=0)


async def test_text_is_promised_and_text_must_come(worker: Link) -> None:
    await worker.run(call("add", TEXT, a=Value(0)), values={"%0": Json(1)})
    fault = await worker.fault(1)
    assert fault.message == "tool 'add' gave what it did not promise: int instead of text"


@pytest.mark.parametrize(
    ("values", "place"),
    [({"a": Json("x")}, "a: "), ({}, "a: "), ({"a": Json(1), "c": Json(1)}, "c: ")],
)
async def test_wrong_arguments_name_the_parameter(worker: Link, values: dict[str, Json], place: str) -> None:
    args = {name: Value(index) for index, name in enumerate(values, start=10)}
    known = {str(args[name]): value for name, value in values.items()}
    await worker.run(call("add", INTEGER, **args), values=known)
    fault = await worker.fault(1)
    assert fault.code == "invalid"
    assert fault.message.startswith(f"tool 'add': {place}")


async def test_an_unknown_tool_is_a_fault_that_names_the_known_ones(worker: Link) -> None:
    await worker.run(call("subtract"))
    fault = await worker.fault(1)
    assert fault.code == "not_found"
    assert "'subtract'" in fault.message
    assert "'add'" in fault.message


@pytest.mark.parametrize("tool", ["hangs", "sleeps"])
async def test_a_tool_that_hangs_runs_into_its_timeout(worker: Link, tool: str, module: str) -> None:
    await worker.run(call(tool, TEXT), timeout_s=0.1)
    await worker.run(call("add", INTEGER, a=Value(0)), run="s", values={"%0": Json(3)})
    await worker.done(1, "s")
    fault = await worker.fault(1)
    assert (fault.code, fault.retryable) == ("timeout", True)
    await worker.status(running=0)
    _imported(module).released.set()


async def test_cancelling_reaches_async_tools(worker: Link, module: str) -> None:
    await worker.run(call("sleeps", TEXT))
    await worker.status(running=1)
    await worker.send(cancel=worker_pb2.Cancel(run="r"))
    assert await asyncio.to_thread(_imported(module).cancelled.wait, 10)
    await worker.status(running=0)


async def test_a_task_that_is_cancelled_before_its_first_line_leaves_nothing(worker: Link) -> None:
    task = worker_pb2.Task(node=node_bytes(call("sleeps", TEXT)), id=1, attempt=1)
    batch = worker_pb2.Batch(fragments=[worker_pb2.Fragment(run="r", tasks=[task])])
    cancel = worker_pb2.Cancel(run="r")
    commands = [worker_pb2.Command(batch=batch), worker_pb2.Command(cancel=cancel)]
    await worker.call.write(worker_pb2.Commands(commands=commands))
    await worker.run(call("sleeps", TEXT), run="s")
    await worker.status(running=1)


async def test_a_fragment_without_tasks_stops_nothing(worker: Link, module: str) -> None:
    await worker.run(call("sleeps", TEXT))
    await worker.status(running=1)
    await worker.send_fragment(worker_pb2.Fragment(run="r"))
    await worker.run(call("add", INTEGER, a=Value(0)), run="s", values={"%0": Json(3)})
    await worker.done(1, "s")
    assert not _imported(module).cancelled.is_set()


async def test_many_calls_run_at_the_same_time(worker: Link, module: str) -> None:
    runs = [f"run-{number}" for number in range(40)]
    for run in runs:
        await worker.run(call("hangs", TEXT), run=run)
    await worker.status(running=40)
    _imported(module).released.set()
    assert [await worker.results(1, run) for run in runs] == [(TextValue("late"),)] * 40


async def test_tools_describe_themselves(module: str) -> None:
    engine = ToolEngine([f"{module}:add", f"{module}:shout", f"{module}:anything"])
    await engine.start()
    add, shout, anything = engine.info().tools
    await engine.stop()
    assert (add.name, add.description) == ("add", "The sum.")
    parameters = json.loads(add.parameters)
    assert parameters["required"] == ["a"]
    assert parameters["properties"]["b"]["type"] == "integer"
    assert [decode_type(tool.result) for tool in (add, shout, anything)] == [INTEGER, TEXT, JSON]


@pytest.mark.parametrize(
    ("entry_points", "words"),
    [
        (["nowhere.at_all:f"], "tool 'nowhere.at_all:f': module 'nowhere.at_all' cannot be imported"),
        (["{}:nothing"], "has no 'nothing'"),
        (["{}:number"], "an object of type 'int' is no function"),
        (["{}:positional"], "parameter 'a' cannot be given by name"),
        (["{}:bad_hint"], "its signature cannot be used: name 'Nowhere' is not defined"),
        (["{}:add", "{}:add"], "another tool is called 'add' too"),
    ],
)
async def test_what_is_no_tool_is_one_clear_line(module: str, entry_points: list[str], words: str) -> None:
    engine = ToolEngine([entry_point.format(module) for entry_point in entry_points])
    with pytest.raises(StartError) as raised:
        await engine.start()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_module_may_lie_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lies_here.py").write_text("def found() -> str: return 'here'")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    engine = ToolEngine(["lies_here:found"])
    await engine.start()
    assert [tool.name for tool in engine.info().tools] == ["found"]
    assert sys.path[-1] == str(tmp_path)
    await engine.stop()


async def test_a_decorated_function_keeps_what_its_decorator_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_worker: StartWorker
) -> None:
    source = """
import functools

class Decorated:
    name, idempotent, pure = "twice", True, True

    def __init__(self, function):
        functools.update_wrapper(self, function)

    def __call__(self, **arguments):
        return 2 * self.__wrapped__(**arguments)

@Decorated
def once(a: int) -> int:
    return a
"""
    (tmp_path / "decorated_tools.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    worker = await start_worker(ToolEngine(["decorated_tools:once"]))
    (tool,) = worker.info.engines[0].tools
    assert (tool.name, tool.idempotent, tool.pure) == ("twice", True, True)
    await worker.run(call("twice", INTEGER, a=Value(0)), values={"%0": Json(4)})
    assert await worker.results(1) == (Json(8),)


def _imported(module: str) -> Any:
    return importlib.import_module(module)
