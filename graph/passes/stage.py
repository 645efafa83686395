"""Cut batchable work beyond what an engine does efficiently at once into stages.

    %2 = chunk(%1)                          %2 = chunk(%1)
    %3 = embed(%2.1)                    ->  %4 = stage ingest(%2, %2.1, size=128)
    %4 = upsert("docs", %2, vectors=%3)

At run time a stage of `size` items at the most is embedded while the one before it is stored; what there is
of less stays whole.
"""

from __future__ import annotations

import math
from typing import Final

from ..ir import Graph, Node, Value
from ..ops.common import Embed
from ..ops.optimized import Stage
from ..ops.primitive import Chunk, Upsert
from ..ops.user import Rerank
from ..types import Data
from .base import Builder, Context, Rewrite

__all__ = ["Stages"]

_NOT_MEASURED: Final = "efficient batch not measured"
_STAGE_MS: Final = 5.0
_STORE_MS: Final = 100.0
"""What a stage must compute for, at least, so that its own cost (two primitives; a commit) does not show."""


class Stages:
    """Teola's Pass 2 (section 4.2) with the count known at run time, and the batch size measured."""

    name = "stage"

    def __init__(self, context: Context) -> None:
        self._context = context

    def fork(self, context: Context) -> Stages:
        """The same for another run: it remembers nothing."""
        return Stages(context)

    def __call__(self, graph: Graph) -> Rewrite:
        """Let batchable work of unknown size be cut once the size is known."""
        if not any(isinstance(node.op, Embed | Upsert | Rerank) for node in graph):
            return Rewrite(graph, {}, "nothing could run in stages")
        stored = {embed.id: node.id for node in graph if (embed := _embed_of(node, graph)) is not None}
        builder = self._context.builder(graph)
        for node in graph:
            if node.id not in stored:
                self._take(node, graph, builder)
            elif not self._size("embed"):
                builder.keep(node)
        return builder.rewrite(f"{len(builder.changes)} nodes may run in stages")

    def _take(self, node: Node, graph: Graph, builder: Builder) -> None:
        stage = self._stage(node, graph)
        if stage is None:
            builder.keep(node)
        elif not stage.size:
            builder.keep(node)
            builder.refused(node, "no engine has said how much it does efficiently at once", _NOT_MEASURED)
        else:
            self._replace(node, stage, graph, builder)

    def _stage(self, node: Node, graph: Graph) -> Stage | None:
        """The work of a node as stages; of size 0 where no engine has measured one."""
        match node.op:
            case Embed(model=model) if isinstance(graph.types[node.args["texts"]], Data):
                return Stage("embed", self._size("embed"), model)
            case Upsert(index=index) if (embed := _embed_of(node, graph)) is not None:
                assert isinstance(embed.op, Embed)
                return Stage("ingest", self._size("embed", _STORE_MS), embed.op.model, index)
            case Rerank():
                return Stage("rerank", self._size("rerank"))
            case _:
                return None

    def _size(self, kind: str, stage_ms: float = _STAGE_MS) -> int:
        """The items of a stage: as many as are efficient, and so many that it is worth its own cost."""
        deployment = self._context.deployment
        batch, item_ms = deployment.batches.get(kind, 0), deployment.item_ms.get(kind, 0.0)
        return max(batch, math.ceil(stage_ms / item_ms)) if batch and item_ms else batch

    def _replace(self, node: Node, stage: Stage, graph: Graph, builder: Builder) -> None:
        args = builder.renamed(node)
        if stage.work == "ingest":
            chunks = args["chunks"]
            order = {"after": args["after"]} if "after" in args else {}
            args = {"chunks": chunks, "texts": Value(chunks.node, 1), **order}
        made = builder.add(stage, args, node)
        for output in range(2 if stage.work == "ingest" else 1):
            builder.replace(Value(node.id, output), Value(made.node, output))
        builder.changed(node, f"runs in stages of {stage.size} as {made}")


def _embed_of(node: Node, graph: Graph) -> Node | None:
    """What embeds the chunks that a node stores, if nobody else takes the vectors."""
    if not isinstance(node.op, Upsert):
        return None
    embed = graph.by_id.get(node.args["vectors"].node)
    chunk = graph.by_id.get(node.args["chunks"].node)
    if embed is None or chunk is None or not isinstance(chunk.op, Chunk) or not isinstance(embed.op, Embed):
        return None
    alone = len(graph.users[Value(embed.id)]) == 1 and embed.args["texts"] == Value(chunk.id, 1)
    return embed if alone else None
