"""Folds that guess, through a whole server: what is begun, called back, and allowed to fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input
from weft.graph.ops.control import Fold
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.types import STRINGS
from weft.proto import orchestrator_pb2 as pb

from .test_invoke import request

REFINE = Generate((Message("raw", (Slot("state"), "|", Slot("item"))),))
STEP = Graph(
    (
        Node(0, Input("state")),
        Node(1, Input("item")),
        Node(2, REFINE, {"state": Value(0), "item": Value(1)}, "refine", "app.py:4"),
    ),
    (Value(2),),
)
REFINING = Graph(
    (
        Node(0, Input("items", STRINGS)),
        Node(1, Input("state")),
        Node(2, Fold(STEP), {"items": Value(0), "state": Value(1)}, "refining", "app.py:3"),
    ),
    (Value(2),),
    "refining",
)


def refine(read: str) -> str:
    """What the model writes: the state again, or the item in its place."""
    state, item = read.split("|")
    return state if item == "=" else item


def asked(items: Sequence[str]) -> pb.SubmitRequest:
    return request(REFINING, items=list(items), state="s")


@pytest.fixture
def worker(stage: Any) -> Any:
    worker = stage.workers["w1"]
    worker.text = refine
    return worker


def writing(worker: Any) -> int:
    """How many texts have been asked for."""
    return sum(isinstance(node.op, Decode) for node in worker.nodes())


async def test_what_follows_is_begun_before_the_state_is_known(stage: Any, worker: Any, until: Any) -> None:
    worker.gated = {Decode}
    call = stage.stub.Invoke(asked("==="))
    await until(lambda: writing(worker) == 3)
    worker.gate.set()
    result = await call
    assert (result.info.state, result.outputs[0].text.text) == ("done", "s")
    assert writing(worker) == 3


async def test_what_was_begun_on_a_wrong_state_is_called_back(stage: Any, worker: Any) -> None:
    worker.held = {"s|=", "s|y"}
    result = await stage.stub.Invoke(asked("x=y"))
    assert (result.info.state, result.outputs[0].text.text) == ("done", "y")
    texts = [node.id for node in worker.nodes() if isinstance(node.op, Decode)]
    called_back = [set(c.cancel.nodes) & set(texts) for c in worker.commands if c.cancel.nodes]
    assert called_back == [{*texts[1:3]}]
    assert len(texts) == 5, "three on s, two on x"


async def test_a_guess_may_fail(stage: Any, worker: Any) -> None:
    worker.refused = {"s|y"}
    result = await stage.stub.Invoke(asked("xy"))
    assert (result.info.state, result.outputs[0].text.text) == ("done", "y")


async def test_a_guess_that_has_failed_ends_the_run_if_it_was_right(
    stage: Any, worker: Any, until: Any
) -> None:
    worker.held, worker.refused = {"s|="}, {"s|y"}
    call = stage.stub.Invoke(asked("=y"))
    await until(lambda: writing(worker) == 2 and not worker.faults)
    (run,) = stage.server.orchestrator.shell.runs.values()
    await until(lambda: any(one.fault for one in run.record.unfinished))
    assert run.record.state == "running"
    worker.gate.set()
    result = await call
    assert (result.info.state, result.fault.code, result.fault.location) == (
        "failed",
        "too_large",
        "app.py:4",
    )


async def test_a_worker_that_is_lost_takes_no_guess_along(stage: Any, worker: Any, until: Any) -> None:
    worker.gated = {Decode}
    call = stage.stub.Invoke(asked("=x="))
    await until(lambda: writing(worker) == 3)
    other = await stage.worker("w2")
    other.text = refine
    await worker.stop()
    result = await call
    assert (result.info.state, result.outputs[0].text.text) == ("done", "x")
    assert writing(other) == 4, "all three again, and one more on x"


@pytest.mark.parametrize("overrides", [{"passes_off": ["guess"]}])
async def test_it_can_be_switched_off(stage: Any, worker: Any) -> None:
    result = await stage.stub.Invoke(asked("x="))
    assert result.outputs[0].text.text == "x"
    assert writing(worker) == 2
