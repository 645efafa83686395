"""Turn what users write into primitives.

    %1 = generate(user "Question: {q}", q=%0)   ->   %2 = prefill("<|user|>Question: ", q=%0, "<|end|>…")
                                                     %3 = decode(%2) -> kv, text

A prompt that goes on from where an earlier decode stopped continues that decode's KV value:

    prefill(kv, decode(kv).text)  ->  decode(kv).kv
"""

from __future__ import annotations

from ..ir import Graph, Node
from ..ops.common import Search
from ..ops.user import Generate, Ingest, Probe, Rerank, Select
from .base import Builder, Context, Rewrite
from .lower_prompt import PromptLowering
from .lower_retrieval import RATING, lower_ingest, lower_rerank, lower_search

__all__ = ["Lower"]

_WRITTEN_BY_USERS = (Generate, Select, Probe, Ingest, Search, Rerank)
"""What may have to be replaced."""


class Lower:
    """Graph construction of Teola (section 4.1, Algorithm 1), over all increments of a run."""

    name = "lower"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._prompts = PromptLowering(context)

    def fork(self, context: Context) -> Lower:
        """The same memory in another run."""
        other = Lower(context)
        other._prompts = self._prompts.fork(context)
        return other

    def __call__(self, graph: Graph) -> Rewrite:
        """Replace each node of the user's dialect. Raises GraphError with node and source line."""
        self._prompts.rename()
        if not any(isinstance(node.op, _WRITTEN_BY_USERS) for node in graph):
            return Rewrite(graph, {}, "all nodes are primitives")
        builder = self._context.builder(graph)
        for node in graph:
            self._lower(node, builder)
        return builder.rewrite(f"{len(graph.nodes)} nodes became {len(builder.nodes)}")

    def _lower(self, node: Node, builder: Builder) -> None:
        match node.op:
            case Generate():
                self._prompts.generate(node, node.op, builder)
            case Select():
                self._prompts.select(node, node.op, builder)
            case Probe():
                self._prompts.probe(node, node.op, builder)
            case Ingest():
                lower_ingest(node, node.op, builder)
            case Search(mode="hybrid" | "vector") if "vectors" not in node.args:
                lower_search(node, node.op, builder)
            case Rerank() if not self._context.deployment.reranker:
                model, pieces = self._prompts.pieces(node, RATING)
                lower_rerank(node, model, pieces, builder)
            case _:
                builder.keep(node)
