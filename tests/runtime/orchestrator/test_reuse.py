"""Equal deterministic work is done once: across runs where it may be cached, and within a batch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Embed, Input
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.ops.user import Generate, Select
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import Sampling
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2, worker_pb2


def raw(*parts: str | Slot) -> tuple[Message, ...]:
    return (Message("raw", parts),)


def asking(*, cache: bool = True, sampling: Sampling | None = None) -> Graph:
    """Writes about `q`, and then about `q`, the reply and `more`, going on from the reply."""
    options: dict[str, Any] = {"cache": cache, "sampling": sampling or Sampling()}
    first = Generate(raw("Q: ", Slot("q")), **options)
    second = Generate(raw("Q: ", Slot("q"), Slot("a"), " More: ", Slot("m")), cache=False)
    nodes = (
        Node(0, Input("q")),
        Node(1, Input("more")),
        Node(2, first, {"q": Value(0)}, "first"),
        Node(3, second, {"q": Value(0), "a": Value(2), "m": Value(1)}, "second"),
    )
    return Graph(nodes, (Value(2), Value(3)), "ask")


EMBEDDING = Graph((Node(0, Input("q")), Node(1, Embed(), {"texts": Value(0)})), (Value(1),), "embed")
CHOOSING = Graph(
    (Node(0, Input("q")), Node(1, Select(raw("Q: ", Slot("q")), ("a", "b"), cache=True), {"q": Value(0)})),
    (Value(1),),
    "choose",
)


async def run(stage: Any, graph: Graph, *, namespace: str = "", batch: str = "", **inputs: str) -> Any:
    given = {name: json.dumps(value) for name, value in inputs.items()}
    request = pb.SubmitRequest(graph=encode_graph(graph), inputs=given, namespace=namespace, batch=batch)
    result = await stage.stub.Invoke(request)
    assert result.info.state in ("done", "failed"), result
    return result


def ran(worker: Any, *kinds: type) -> int:
    """How many tasks of these kinds a worker was given."""
    return sum(isinstance(node.op, kinds) for node in worker.nodes())


def texts(result: Any) -> list[str]:
    return [output.text.text for output in result.outputs]


def reused(result: Any) -> list[str]:
    return [stat.label.split()[1] for stat in result.info.stats if stat.timing.reused]


async def test_a_cached_text_is_taken_and_gone_on_from(stage: Any) -> None:
    worker = stage.workers["w1"]
    first = await run(stage, asking(), q="why?", more="x")
    assert reused(first) == []
    again = await run(stage, asking(), q="why?", more="y")
    plain = await run(stage, asking(cache=False), q="why?", more="y")
    assert texts(again) == texts(plain)
    assert texts(again)[0] == texts(first)[0]
    assert reused(again) == ["prefill", "decode"]
    assert ran(worker, Decode) == 2 + 1 + 2


async def test_embeddings_and_scores_are_taken(stage: Any) -> None:
    worker = stage.workers["w1"]
    for graph, kind in ((EMBEDDING, Embed), (CHOOSING, Score)):
        results = [await run(stage, graph, q="why?") for _ in range(3)]
        assert results[0].outputs == results[1].outputs == results[2].outputs
        assert ran(worker, kind) == 1
        await run(stage, graph, q="how?")
        assert ran(worker, kind) == 2
    stats = (await stage.stub.Describe(pb.DescribeServerRequest())).results
    assert (stats.hits, stats.misses, stats.entries) == (4, 4, 4)
    assert stats.bytes > 0


async def test_a_text_that_is_not_marked_is_written_anew(stage: Any) -> None:
    for _ in range(2):
        await run(stage, asking(cache=False), q="why?", more="x")
    assert ran(stage.workers["w1"], Decode) == 4


@pytest.mark.parametrize(
    ("graph", "namespace"),
    [(asking(), "other"), (asking(sampling=Sampling(max_tokens=7)), "")],
)
async def test_what_differs_is_not_taken(stage: Any, graph: Graph, namespace: str) -> None:
    await run(stage, asking(), q="why?", more="x")
    other = await run(stage, graph, namespace=namespace, q="why?", more="x")
    assert reused(other) == []


async def test_results_of_a_worker_that_is_replaced_are_not_taken(stage: Any) -> None:
    await run(stage, EMBEDDING, q="why?")
    await stage.workers["w1"].stop()
    await stage.worker("w2")
    assert reused(await run(stage, EMBEDDING, q="why?")) == []


@pytest.mark.parametrize("overrides", [{"result_cache_mb": 0}])
async def test_without_room_everything_is_computed_with_equal_results(stage: Any) -> None:
    results = [await run(stage, asking(), q="why?", more=more) for more in ("x", "x")]
    assert ran(stage.workers["w1"], Decode) == 4
    assert texts(results[0]) == texts(results[1])


async def batch(stage: Any, graph: Graph, calls: Sequence[dict[str, str]], name: str = "b") -> list[Any]:
    return await asyncio.gather(*(run(stage, graph, batch=name, **call) for call in calls))


async def test_a_batch_computes_common_work_once(stage: Any) -> None:
    worker = stage.workers["w1"]
    calls = [{"q": "why?", "more": more} for more in ("a", "b", "c", "a")]
    together = await batch(stage, asking(cache=False), calls)
    assert ran(worker, Decode) == 1 + 3  # the first text; what follows on it, for each that differs
    alone = [await run(stage, asking(cache=False), **call) for call in calls]
    assert [texts(result) for result in together] == [texts(result) for result in alone]


async def test_another_batch_begins_anew_unless_results_may_be_cached(stage: Any) -> None:
    worker = stage.workers["w1"]
    for name in ("b", "c"):
        await batch(stage, asking(cache=False), [{"q": "why?", "more": "x"}] * 2, name)
    assert ran(worker, Decode) == 4
    for name in ("d", "e"):
        await batch(stage, asking(cache=True), [{"q": "how?", "more": "x"}] * 2, name)
    assert ran(worker, Decode) == 4 + 1 + 2


async def test_sampled_texts_of_a_batch_are_written_one_by_one(stage: Any) -> None:
    graph = asking(cache=False, sampling=Sampling(temperature=1.0))
    await batch(stage, graph, [{"q": "why?", "more": "x"}] * 2)
    assert ran(stage.workers["w1"], Decode) == 2 + 1  # the second text is greedy, and follows on equal ones


async def test_what_is_read_in_vain_is_not_read(stage: Any) -> None:
    await batch(stage, CHOOSING, [{"q": "why?"}] * 3)
    assert ran(stage.workers["w1"], Prefill) == 1


async def test_when_the_run_that_computes_fails_another_one_does(stage: Any) -> None:
    worker = stage.workers["w1"]
    worker.gated = {Decode}
    worker.faults.append(value_pb2.Fault(code="internal", message="broke"))
    calls = [asyncio.ensure_future(run(stage, CHOOSING, batch="b", q="why?")) for _ in range(3)]
    states = sorted([(await call).info.state for call in calls])
    assert states == ["done", "done", "failed"]


async def test_when_the_run_that_computes_is_cancelled_another_one_does(stage: Any, until: Any) -> None:
    worker = stage.workers["w1"]
    worker.gated = {Score}
    calls = [asyncio.ensure_future(run(stage, CHOOSING, batch="b", q="why?")) for _ in range(3)]
    await until(lambda: len(stage.server.orchestrator.shell.runs) == 3 and ran(worker, Score) == 1)
    (leader,) = {fragment.run for fragment in worker.fragments()}
    await stage.stub.Cancel(pb.CancelRunRequest(run=leader))
    worker.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(getattr(getattr(r, "info", None), "state", "cancelled") for r in results) == [
        "cancelled",
        "done",
        "done",
    ]
    assert ran(worker, Score) == 2


async def test_runs_outside_of_a_batch_do_not_wait_for_each_other(stage: Any, until: Any) -> None:
    worker = stage.workers["w1"]
    worker.gated = {Score}
    calls = [asyncio.ensure_future(run(stage, CHOOSING, q="why?")) for _ in range(2)]
    await until(lambda: ran(worker, Score) == 2)
    worker.gate.set()
    await asyncio.gather(*calls)


async def test_only_greedy_texts_can_be_marked(stage: Any) -> None:
    message = encode_graph(asking(cache=False))
    message.nodes[2].generate.sampling.temperature = 1.0
    message.nodes[2].generate.cache = True
    with pytest.raises(grpc.aio.AioRpcError, match="only greedy texts can be cached"):
        await stage.stub.Invoke(pb.SubmitRequest(graph=message))


async def test_reports_of_a_run_say_what_was_reused(stage: Any) -> None:
    await run(stage, EMBEDDING, q="why?")
    result = await run(stage, EMBEDDING, q="why?")
    (stat,) = [stat for stat in result.info.stats if stat.kind == "embed"]
    assert stat.timing == worker_pb2.Timing(reused=True)
    assert stat.worker == "orchestrator"
