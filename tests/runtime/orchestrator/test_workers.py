"""Workers that join, vanish, come back, and cannot be reached."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest

from weft.graph.codec import encode_graph, encode_type
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input, Tool
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.types import TEXT
from weft.graph.values import EFFECT
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2, worker_pb2
from weft.runtime.orchestrator.run import Run
from weft.runtime.orchestrator.shell import Shell


def conversation() -> Graph:
    """A turn, a tool of the server over its answer, and a turn that goes on from the first context."""
    first = (Message("raw", ("one", Slot("q"))),)
    nodes = (
        Node(0, Input("q")),
        Node(1, Generate(first), {"q": Value(0)}),
        Node(2, Tool("lookup", TEXT, "server", True), {"key": Value(1)}),
        Node(
            3,
            Generate((Message("raw", ("one", Slot("q"), Slot("a"), Slot("t"))),)),
            {"q": Value(0), "a": Value(1), "t": Value(2)},
            "second",
            "app.py:8",
        ),
    )
    return Graph(nodes, (Value(3),), "talk")


def submit(graph: Graph, text: str = "?") -> pb.SubmitRequest:
    return pb.SubmitRequest(graph=encode_graph(graph), inputs={"q": f'"{text}"'})


def llm() -> worker_pb2.EngineInfo:
    info = worker_pb2.LlmInfo(context_length=1000, tokenizer="fingerprint")
    return worker_pb2.EngineInfo(kind="llm", model="m", llm=info)


def tools() -> worker_pb2.EngineInfo:
    tool = worker_pb2.ToolInfo(name="lookup", result=encode_type(TEXT), idempotent=True)
    return worker_pb2.EngineInfo(kind="tool", tools=[tool])


async def test_a_lost_workers_work_is_done_elsewhere_with_equal_result(bare: Any, until: Any) -> None:
    first = await bare.worker("w1", llm())
    lookup = await bare.worker("t1", tools())
    undisturbed = await bare.stub.Invoke(submit(conversation()))
    lookup.gated = {Tool}
    call = asyncio.ensure_future(bare.stub.Invoke(submit(conversation())))
    await until(lambda: len(lookup.fragments()) == 2)
    second = await bare.worker("w2", llm())
    await first.stop()
    lookup.gate.set()
    result = await call
    assert result.outputs == undisturbed.outputs
    assert second.fragments()


async def test_no_other_worker_in_time_fails_the_run_and_names_the_worker(bare: Any, until: Any) -> None:
    worker = await bare.worker("w1", llm())
    await bare.worker("t1", tools())
    worker.gated = {Decode}
    call = asyncio.ensure_future(bare.stub.Invoke(submit(conversation())))
    await until(worker.fragments)
    await worker.stop()
    result = await call
    assert (result.fault.code, result.fault.worker) == ("worker_lost", "w1")
    assert "'w1'" in result.fault.message


async def test_a_worker_can_rejoin_in_time(bare: Any, until: Any) -> None:
    worker = await bare.worker("w1", llm())
    await bare.worker("t1", tools())
    worker.gated = {Decode}
    call = asyncio.ensure_future(bare.stub.Invoke(submit(conversation())))
    await until(worker.fragments)
    await worker.stop()
    again = await bare.worker("w1", llm())
    assert (await call).info.state == "done"
    assert again.fragments()[0].tasks[0].attempt == 2


async def test_a_run_that_comes_while_a_worker_is_restarted_waits_for_it(bare: Any, until: Any) -> None:
    worker = await bare.worker("w1", llm(), tools())
    await worker.stop()
    await until(lambda: not list(bare.server.orchestrator.fleet))
    call = asyncio.ensure_future(bare.stub.Invoke(submit(conversation())))
    await until(lambda: bare.server.orchestrator.records)
    await bare.worker("w2", llm(), tools())
    assert (await call).info.state == "done"


async def test_a_worker_that_does_not_come_back_is_missed_by_name_and_then_forgotten(
    bare: Any, until: Any
) -> None:
    worker = await bare.worker("w1", llm(), tools())
    await worker.stop()
    await until(lambda: not list(bare.server.orchestrator.fleet))
    fault = (await bare.stub.Invoke(submit(conversation()))).fault
    assert (fault.code, fault.worker) == ("worker_lost", "w1")
    assert "`weft worker --kind llm --connect ADDRESS`" in fault.message
    await until(lambda: not bare.server.orchestrator.fleet.deployment.models)
    with pytest.raises(grpc.aio.AioRpcError, match="no worker offers 'llm'") as refused:
        await bare.stub.Invoke(submit(conversation()))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stop_ends_runs_and_memberships_and_is_no_news(
    bare: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await bare.worker("w1", llm(), tools())
    worker.gated = {Decode}
    call = asyncio.ensure_future(bare.stub.Invoke(submit(conversation())))
    await until(worker.fragments)
    await bare.server.stop()
    fault = (await call).fault
    assert (fault.code, "shutting down" in fault.message) == ("cancelled", True)
    assert not list(bare.server.orchestrator.fleet)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_worker_of_the_same_id_takes_the_place_of_the_first(bare: Any) -> None:
    await bare.worker("w1", llm(), tools())
    again = await bare.worker("w1", llm(), tools())
    assert (await bare.stub.Invoke(submit(conversation()))).info.state == "done"
    assert again.fragments()
    assert len((await bare.stub.Describe(pb.DescribeServerRequest())).workers) == 1


@pytest.mark.parametrize(
    ("info", "named"),
    [
        (worker_pb2.WorkerInfo(worker_id="w1"), "address"),
        (
            worker_pb2.WorkerInfo(
                worker_id="w1",
                address="127.0.0.1:1",
                engines=[
                    worker_pb2.EngineInfo(kind="tool", tools=[worker_pb2.ToolInfo(name="t")]),
                ],
            ),
            "type",
        ),
    ],
)
async def test_a_worker_that_makes_no_sense_is_refused(bare: Any, info: Any, named: str) -> None:
    events = [event async for event in bare.stub.Join(info)]
    assert [event.accepted for event in events] == [False]
    assert named in events[0].message


async def test_a_worker_that_cannot_be_reached_is_refused(bare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.runtime.orchestrator.workers._CONNECT_S", 0.1)
    nowhere = worker_pb2.WorkerInfo(worker_id="w1", address="127.0.0.1:1", engines=[llm()])
    (event,) = [event async for event in bare.stub.Join(nowhere)]
    assert not event.accepted
    assert "cannot be reached at '127.0.0.1:1'; it must name an address" in event.message


async def test_a_worker_whose_indexes_lie_elsewhere_is_refused(bare: Any) -> None:
    def keeps(detail: str) -> worker_pb2.EngineInfo:
        return worker_pb2.EngineInfo(kind="index", detail=detail)

    await bare.worker("w1", keeps("PostgreSQL"))
    await bare.worker("w2", keeps("PostgreSQL"))
    stray = worker_pb2.WorkerInfo(worker_id="w3", address="127.0.0.1:1", engines=[keeps("LanceDB")])
    (event,) = [event async for event in bare.stub.Join(stray)]
    assert not event.accepted
    assert event.message == (
        "its indexes are kept by LanceDB, those of other workers by PostgreSQL; "
        "give all of them the same `indexes` (WEFT_INDEXES)"
    )


async def test_contexts_are_released_when_nobody_takes_them(bare: Any, until: Any) -> None:
    worker = await bare.worker("w1", llm(), tools())
    await bare.stub.Invoke(submit(conversation()))
    await until(lambda: any(c.HasField("release") and not c.release.keys for c in worker.commands))
    released = [c.release for c in worker.commands if c.HasField("release")]
    assert any(release.keys for release in released), "during the run"
    assert not worker.contexts


async def test_malformed_result_fails_the_run_only(bare: Any) -> None:
    worker = await bare.worker("w1", llm(), tools())
    worker._compute = lambda *_: (EFFECT,)
    result = await bare.stub.Invoke(submit(conversation()))
    assert result.fault.code == "internal"
    assert "promised" in result.fault.message
    del worker._compute
    assert (await bare.stub.Invoke(submit(conversation()))).info.state == "done"


async def test_what_cannot_be_read_as_a_result_fails_the_run_only(bare: Any, until: Any) -> None:
    worker = await bare.worker("w1", llm(), tools())
    worker.gated = {Decode}
    call = asyncio.ensure_future(bare.stub.Invoke(submit(conversation())))
    await until(lambda: any(isinstance(node.op, Decode) for node in worker.nodes()))
    run, decode = worker.fragments()[-1].run, worker.nodes()[-1]
    results = [value_pb2.Datum(json="{")]
    done = worker_pb2.TaskDone(run=run, node=decode.id, attempt=1, results=results)
    for report in (worker_pb2.Report(), worker_pb2.Report(done=done)):  # the first is of no kind
        worker.reports.put_nowait(report)
    fault = (await call).fault
    assert (fault.code, fault.node) == ("internal", decode.label())
    assert fault.message.startswith("worker 'w1' sent a malformed result: json: not a JSON text")
    worker.gate.set()
    assert (await bare.stub.Invoke(submit(conversation()))).info.state == "done"


async def test_a_mistake_with_results_fails_their_run_and_loses_no_worker(
    bare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bare.worker("w1", llm(), tools())

    def mistaken(*_: object) -> None:
        raise AssertionError("as in a bug")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "done", mistaken)
        fault = (await bare.stub.Invoke(submit(conversation()))).fault
    assert (fault.code, fault.message) == ("internal", "AssertionError: as in a bug")
    assert (await bare.stub.Invoke(submit(conversation()))).info.state == "done"


async def test_a_worker_whose_report_cannot_be_taken_in_is_lost_rather_than_heard_no_more(
    bare: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bare.worker("w1", llm(), tools())
    (link,) = bare.server.orchestrator.fleet

    def mistaken(shell: Shell, delta: worker_pb2.Delta) -> None:
        raise AssertionError("as in a bug")

    with monkeypatch.context() as patched:
        patched.setattr(Shell, "_delta", mistaken)
        bare.workers["w1"].reports.put_nowait(worker_pb2.Report(delta=worker_pb2.Delta()))
        await until(link.lost.is_set)
    assert not list(bare.server.orchestrator.fleet)
    await bare.worker("w2", llm(), tools())
    assert (await bare.stub.Invoke(submit(conversation()))).info.state == "done"


async def test_cancel_reaches_workers_and_frees_what_they_hold(bare: Any, until: Any) -> None:
    worker = await bare.worker("w1", llm(), tools())
    worker.gated = {Decode}
    info = await bare.stub.Submit(submit(conversation()))
    await until(worker.fragments)
    cancelled = await bare.stub.Cancel(pb.CancelRunRequest(run=info.run))
    assert cancelled.state == "cancelled"
    await until(lambda: worker.cancelled(info.run) and not worker.contexts)
    with pytest.raises(grpc.aio.AioRpcError, match="unknown run"):
        await bare.stub.Cancel(pb.CancelRunRequest(run="r-none"))


async def test_invoke_is_cancelled_with_its_caller_but_submit_is_not(bare: Any, until: Any) -> None:
    worker = await bare.worker("w1", llm(), tools())
    worker.gated = {Decode}
    detached = await bare.stub.Submit(submit(conversation()))
    call = bare.stub.Invoke(submit(conversation()))
    await until(lambda: len(worker.fragments()) == 2)
    call.cancel()
    attached = worker.fragments()[1].run
    await until(lambda: worker.cancelled(attached))
    worker.gate.set()
    watch = pb.WatchRequest(run=detached.run)
    events = [event async for message in bare.stub.Watch(watch) for event in message.events]
    assert events[-1].finished.info.state == "done"


async def test_programs_are_compiled_for_what_engines_say_they_compute_on(bare: Any) -> None:
    engines = [llm(), worker_pb2.EngineInfo(kind="embed", model="e"), tools()]
    for engine, processor in zip(engines, ("here/cuda:0", "here/cpu", ""), strict=True):
        engine.processor = processor
    await bare.worker("w", *engines)
    profile = bare.server.orchestrator.fleet.profile
    assert profile.models["m"].processor == "here/cuda:0"
    assert profile.processors == {"embed": "here/cpu"}
