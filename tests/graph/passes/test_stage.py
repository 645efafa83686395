"""Check 2 of the acceptance list: work beyond the efficient batch becomes stages, at run time."""

from __future__ import annotations

import numpy as np
import pytest

from weft.graph.deployment import Deployment
from weft.graph.errors import EvaluationError
from weft.graph.evaluate import evaluate
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import LiveGraph
from weft.graph.ops.common import Embed, Input
from weft.graph.ops.optimized import Merge, Slice, Stage
from weft.graph.ops.primitive import Partial, Upsert
from weft.graph.ops.user import Ingest, Rerank
from weft.graph.types import INTEGER, PASSAGES, STRINGS, TEXT
from weft.graph.values import Datum, Json, TextValue, VectorsValue, plain


def deployment(**batches: int) -> Deployment:
    return Deployment({}, "", batches=batches, reranker="cross")


def ingesting(batch: int) -> tuple[LiveGraph, Node]:
    live = LiveGraph(deployment(embed=batch))
    live.extend(
        Graph((Node(0, Input("d", STRINGS)), Node(1, Ingest("docs"), {"documents": Value(0)})), (Value(1),)),
        closed=True,
    )
    (stage,) = [node for node in live.nodes.values() if isinstance(node.op, Stage)]
    return live, stage


def chunks(**documents: int) -> dict[str, Datum]:
    made = [
        {"id": f"{name}#{n}", "document": name, "text": f"{name} {n}"}
        for name, count in documents.items()
        for n in range(1, count + 1)
    ]
    return {"chunks": Json(made), "texts": Json([chunk["text"] for chunk in made])}


def test_666_passages_at_an_efficient_batch_of_128_are_six_stages() -> None:
    live, stage = ingesting(128)
    growth = live.expand(stage.id, chunks(a=600, b=66))
    kinds = [type(node.op) for node in growth.nodes]
    assert (kinds.count(Embed), kinds.count(Upsert), kinds.count(Slice)) == (6, 6, 12)
    bounds = sorted({(n.op.start, n.op.stop) for n in growth.nodes if isinstance(n.op, Slice)})
    assert bounds == [(0, 128), (128, 256), (256, 384), (384, 512), (512, 640), (640, 666)]
    stores = [node for node in growth.nodes if isinstance(node.op, Upsert)]
    assert "after" not in stores[0].args
    assert [n.args["after"] for n in stores[1:]] == [Value(n.id, 1) for n in stores[:-1]]
    embeds = [node.id for node in growth.nodes if isinstance(node.op, Embed)]
    assert stores[0].args["vectors"] == Value(embeds[0])  # the first is stored without waiting for the last
    assert stores[0].op == Upsert("docs", (Partial("a", 600),))
    assert stores[4].op == Upsert("docs", (Partial("a", 600), Partial("b", 66)))
    assert growth.nodes[-1].id == stage.id
    assert growth.nodes[-1].op == Merge("reports", "docs")


@pytest.mark.parametrize("count", [0, 1, 128])
def test_up_to_the_efficient_batch_nothing_is_cut(count: int) -> None:
    live, stage = ingesting(128)
    growth = live.expand(stage.id, chunks(a=count))
    assert [type(node.op) for node in growth.nodes] == [Embed, Upsert]
    assert growth.nodes[-1].op == Upsert("docs")


def test_a_slower_or_smaller_engine_cuts_at_other_sizes() -> None:
    live, stage = ingesting(50)
    growth = live.expand(stage.id, chunks(a=101))
    assert sum(isinstance(node.op, Embed) for node in growth.nodes) == 3


def test_stages_are_so_large_that_their_own_cost_does_not_show() -> None:
    fast = Deployment({}, "", batches={"embed": 4}, item_ms={"embed": 0.1})
    live = LiveGraph(fast)
    live.extend(
        Graph((Node(0, Input("t", STRINGS)), Node(1, Embed(), {"texts": Value(0)})), (Value(1),)), closed=True
    )
    (stage,) = [node.op for node in live.nodes.values() if isinstance(node.op, Stage)]
    assert stage.size == 50


def test_without_a_measurement_the_rule_is_named() -> None:
    live = LiveGraph(Deployment({}, ""))
    live.extend(
        Graph((Node(0, Input("t", STRINGS)), Node(1, Embed(), {"texts": Value(0)})), (Value(1),)), closed=True
    )
    (report,) = [report for report in live.reports if report.name == "stage"]
    assert [(note.node, note.rule) for note in report.refusals] == [(1, "efficient batch not measured")]


def test_one_text_is_not_staged() -> None:
    live = LiveGraph(deployment(embed=2))
    live.extend(
        Graph((Node(0, Input("t", TEXT)), Node(1, Embed(), {"texts": Value(0)})), (Value(1),)), closed=True
    )
    assert isinstance(live.nodes[1].op, Embed)


def test_two_passages_of_one_id_are_refused_as_by_an_undivided_ingest() -> None:
    live, stage = ingesting(2)
    twice = chunks(a=3)
    doubled = {name: Json([*plain(datum), *plain(datum)]) for name, datum in twice.items()}
    with pytest.raises(EvaluationError, match="two passages have the id 'a#1'"):
        live.expand(stage.id, doubled)


def test_reranking_in_stages_keeps_the_best_of_all() -> None:
    live = LiveGraph(deployment(rerank=2))
    nodes = (Node(0, Input("q")), Node(1, Input("p", PASSAGES)), Node(2, Input("k", INTEGER)))
    rerank = Node(3, Rerank(), {"query": Value(0), "passages": Value(1), "k": Value(2)})
    live.extend(Graph((*nodes, rerank), (Value(3),)), closed=True)
    (stage,) = [node for node in live.nodes.values() if isinstance(node.op, Stage)]
    passages = Json([{"id": str(n), "text": "", "score": 0.0} for n in range(5)])
    growth = live.expand(stage.id, {"query": TextValue("q"), "passages": passages, "k": Json(2)})
    assert sum(isinstance(node.op, Rerank) for node in growth.nodes) == 3
    parts: dict[str, Datum] = {
        "0": Json([{"id": "a", "score": 0.5}, {"id": "b", "score": 0.1}]),
        "1": Json([{"id": "c", "score": 0.5}, {"id": "a", "score": 0.5}]),
        "2": Json([{"id": "d", "score": 0.9}]),
        "k": Json(3),
    }
    (best,) = evaluate(Merge("top_k"), parts)
    assert [passage["id"] for passage in plain(best)] == ["d", "a", "c"]


def test_vectors_are_joined_row_by_row() -> None:
    rows = [
        np.array([[1.0, 2.0]], np.float32),
        np.zeros((0, 2), np.float32),
        np.array([[3.0, 4.0]], np.float32),
    ]
    (joined,) = evaluate(Merge("vectors"), {str(n): VectorsValue(array) for n, array in enumerate(rows)})
    assert plain(joined) == [[1.0, 2.0], [3.0, 4.0]]
    (none,) = evaluate(Merge("vectors"), {})
    assert plain(none) == []
