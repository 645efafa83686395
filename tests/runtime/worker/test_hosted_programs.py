"""Programs that a tool worker runs as its loader has made tools of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.graph.ir import Node, Value
from weft.graph.ops.common import Tool
from weft.graph.types import TEXT
from weft.graph.values import TextValue
from weft.proto import worker_pb2
from weft.runtime.config import HostedPrograms
from weft.runtime.orchestrator.workers import engine_specs
from weft.runtime.worker.engines.base import StartError
from weft.runtime.worker.engines.tool import ToolEngine

from .conftest import Link, StartWorker

LOADER = '''
import asyncio, threading
from dataclasses import replace

from weft.runtime.outer_run import OUTER
from weft.runtime.worker.engines.tool_loading import tool_of
from weft.runtime.worker.faults import TaskError

async def spell(word: str) -> str:
    """Letter by letter."""
    write = OUTER.get().write
    if write is not None:
        thread = threading.Thread(target=lambda: [write(letter) for letter in word])
        thread.start()
        await asyncio.to_thread(thread.join)
    return word

async def belongs(word: str) -> str:
    outer = OUTER.get()
    return f"{word} in {outer.id}, {outer.namespace}"

def belongs_in_a_thread(word: str) -> str:
    outer = OUTER.get()
    return f"{word} in {outer.id}, {outer.namespace}"

async def fails(word: str) -> str:
    raise TaskError("worker_lost", word, node="%9 decode", location="mine.py:3", worker="w-far")

def load(name, source):
    if source == "broken":
        raise SyntaxError("no such grammar\\nin line 3")
    return replace(tool_of(globals()[source], source), name=name)
'''
NAMES = ("spell", "belongs", "belongs_in_a_thread", "fails")


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new module with a loader."""
    name = f"loader_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(LOADER)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
async def worker(start_worker: StartWorker, loader: str) -> Link:
    programs = HostedPrograms(loader=f"{loader}:load", sources={f"my {name}": name for name in NAMES})
    return await start_worker(ToolEngine([f"{loader}:spell"], programs))


def call(program: str) -> Node:
    return Node(1, Tool(f"my {program}", TEXT, "server"), {"word": Value(0)}, location="app.py:7")


HEY = {"%0": TextValue("hey")}


async def test_a_program_may_write_its_result_piece_by_piece(worker: Link) -> None:
    await worker.run(call("spell"), values=HEY, stream=worker_pb2.STREAM_TEXT, attempt=2)
    assert await worker.results(1) == (TextValue("hey"),)
    deltas = [report.delta for report in worker.reports if report.HasField("delta")]
    assert [(delta.text, delta.node, delta.attempt) for delta in deltas] == [(c, 1, 2) for c in "hey"]
    reports = [report.WhichOneof("report") for report in worker.reports]
    assert reports.index("done") > len(reports) - 1 - reports[::-1].index("delta")


async def test_nothing_is_sent_of_what_nobody_wants_before_its_end(worker: Link) -> None:
    await worker.run(call("spell"), values=HEY)
    assert await worker.results(1) == (TextValue("hey"),)
    assert not any(report.HasField("delta") for report in worker.reports)


@pytest.mark.parametrize("program", ["belongs", "belongs_in_a_thread"])
async def test_code_knows_the_run_that_it_works_for(worker: Link, program: str) -> None:
    for run in ("r", "s"):
        await worker.run(call(program), run=run, values=HEY, namespace=f"space of {run}")
        assert await worker.results(1, run) == (TextValue(f"hey in {run}, space of {run}"),)


async def test_a_failure_says_where_it_was(worker: Link) -> None:
    await worker.run(call("fails"), values=HEY)
    fault = await worker.fault(1)
    assert (fault.code, fault.message) == ("worker_lost", "hey")
    assert (fault.node, fault.location, fault.worker) == ("%9 decode", "mine.py:3", "w-far")


async def test_many_runs_of_a_program_go_on_at_a_time(worker: Link) -> None:
    capacities = {spec.model: spec.capacity for spec in engine_specs(worker.info)}
    assert capacities == {"spell": 64} | {f"my {name}": 1024 for name in NAMES}


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("p", "broken", "program 'p': 'broken' cannot be loaded: SyntaxError: no such grammar"),
        ("p", "gone", "program 'p': 'gone' cannot be loaded: KeyError: 'gone'"),
        ("spell", "belongs", "program 'spell': a tool is called so too; give one of them another name"),
    ],
)
async def test_what_cannot_be_loaded_is_one_clear_line(
    loader: str, name: str, source: str, words: str
) -> None:
    programs = HostedPrograms(loader=f"{loader}:load", sources={name: source})
    with pytest.raises(StartError) as raised:
        await ToolEngine([f"{loader}:spell"], programs).start()
    assert str(raised.value) == words
