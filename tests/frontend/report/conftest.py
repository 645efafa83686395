from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from weft.graph import draw
from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Embed, Input, Project
from weft.graph.ops.control import Map
from weft.graph.types import JSON, TEXT
from weft.proto import graph_pb2, worker_pb2
from weft.proto import orchestrator_pb2 as pb

MakeStat = Callable[..., pb.NodeStat]


@pytest.fixture(scope="session")
def stat() -> MakeStat:
    """Makes what a server tells of a primitive: `stat(3, "decode", 0.1, 0.4, operands=[2], decode=0.2)`."""

    def make(
        node: int,
        op: str,
        ready_s: float,
        finished_s: float,
        *,
        operands: tuple[int, ...] = (),
        worker: str = "w",
        kind: str = "llm",
        dispatched_s: float | None = None,
        location: str = "/home/ann/app.py:7",
        predicted_ms: float = 0.0,
        **timing: Any,
    ) -> pb.NodeStat:
        return pb.NodeStat(
            node=node,
            label=f"%{node} {op}",
            worker=worker,
            kind=kind,
            ready_s=ready_s,
            dispatched_s=ready_s if dispatched_s is None else dispatched_s,
            finished_s=finished_s,
            operands=[graph_pb2.Value(node=operand) for operand in operands],
            location=location,
            predicted_ms=predicted_ms,
            timing=worker_pb2.Timing(**timing),
        )

    return make


@pytest.fixture(scope="session")
def result(stat: MakeStat) -> pb.RunResult:
    """A run in which a decode is read while it is written, on two workers."""
    stats = [
        stat(1, "prefill", 0.001, 0.031, prefill=0.02, predicted_ms=25),
        stat(
            2,
            "decode 'plan'",
            0.031,
            0.131,
            operands=(1,),
            decode=0.09,
            generated_tokens=9,
            prompt_tokens=7,
            computed_tokens=2,
        ),
        stat(4, "embed", 0.081, 0.151, operands=(3,), worker="e", kind="embed", queued=0.01, compute=0.05),
        stat(5, "prefill", 0.001, 0.05, queued=0.02, prefill=0.02, cached_tokens=5),
        stat(6, "format", 0.151, 0.152, operands=(4,), worker="orchestrator", kind="host"),
        stat(7, "pay", 0.152, 0.252, operands=(6,), worker="client", kind="tool"),
    ]
    info = pb.RunInfo(run="r-1", program="answer", state="done", seconds=0.26, stats=stats)
    return pb.RunResult(info=info)


def _graph(name: str) -> Graph:
    body = Graph((Node(0, Input("item", TEXT)), Node(1, Embed(), {"texts": Value(0)})), (Value(1),))
    nodes = (
        Node(0, Input("question", JSON), location="/home/ann/app.py:3"),
        Node(3, Project("items"), {"value": Value(0)}, name, "/home/ann/app.py:4"),
        Node(4, Map(body), {"items": Value(3)}, location="/home/ann/app.py:5"),
    )
    return Graph(nodes, (Value(4),), "answer")


@pytest.fixture(scope="session")
def explain() -> Callable[..., pb.ExplainResponse]:
    """Makes the explanation of a program; `name` is that of a node, `text` of a refusal."""

    def make(name: str = "part", text: str = "known as early") -> pb.ExplainResponse:
        graph = _graph(name)
        drawn: dict[str, Any] = {"text": draw.text(graph), "mermaid": draw.mermaid(graph)}
        written = pb.PassReport(name="as written", summary="3 nodes", graph=encode_graph(graph), **drawn)
        split = pb.PassReport(
            name="split_prefill",
            summary="cut 1 prompt",
            graph=encode_graph(graph),
            changes=[pb.PassNote(node=4, text="cut in two", location="/home/ann/app.py:5")],
            refusals=[pb.PassNote(node=3, text=text, rule="known together", location="/home/ann/app.py:4")],
            milliseconds=1.5,
            **drawn,
        )
        predictions = [
            pb.Prediction(node=0, critical=True, objective="latency", depth=2),
            pb.Prediction(node=3, milliseconds=0.05, finish_ms=0.05, critical=True, objective="latency"),
            pb.Prediction(node=4, milliseconds=40, start_ms=0.05, finish_ms=40.05, objective="group"),
        ]
        return pb.ExplainResponse(passes=[written, split], predictions=predictions)

    return make
