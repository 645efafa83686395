"""Turn what users write into primitives.

    %1 = generate(user "Question: {q}", q=%0)   ->   %2 = prefill("<|user|>Question: ", q=%0, "<|end|>…")
                                                     %3 = decode(%2) -> kv, text

A prompt that goes on from where an earlier decode stopped continues that decode's KV value:

    prefill(kv, decode(kv).text)  ->  decode(kv).kv
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..deployment import Deployment
from ..ir import Graph, Node, Value
from ..ops.common import Search
from ..ops.user import Generate, Ingest, Rerank, Select
from ..types import Type
from .base import Builder, Rewrite
from .lower_prompt import PromptLowering
from .lower_retrieval import lower_ingest, lower_rerank, lower_search

__all__ = ["Lower"]


class Lower:
    """Graph construction of Teola (section 4.1, Algorithm 1), over all increments of a run."""

    name = "lower"

    def __init__(
        self,
        deployment: Deployment,
        types: Mapping[Value, Type],
        aliases: Mapping[Value, Value],
        new_id: Callable[[], int],
    ) -> None:
        self._deployment = deployment
        self._types = types  # of everything earlier increments made
        self._aliases = aliases  # what passes replaced in earlier increments
        self._new_id = new_id
        self._prompts = PromptLowering(deployment)

    def __call__(self, graph: Graph) -> Rewrite:
        """Replace each node of the user's dialect. Raises GraphError with node and source line."""
        self._prompts.rename(self._aliases)
        builder = Builder(dict(self._types), self._new_id)
        for node in graph:
            self._lower(node, builder)
        lowered = builder.graph(graph)
        summary = f"{len(graph.nodes)} nodes became {len(lowered.nodes)}"
        return Rewrite(lowered, builder.aliases, summary)

    def _lower(self, node: Node, builder: Builder) -> None:
        match node.op:
            case Generate():
                self._prompts.generate(node, node.op, builder)
            case Select():
                self._prompts.select(node, node.op, builder)
            case Ingest():
                lower_ingest(node, node.op, builder)
            case Search(mode="hybrid" | "vector") if "vectors" not in node.args:
                lower_search(node, node.op, builder)
            case Rerank() if not self._deployment.reranker:
                lower_rerank(node, builder)
            case _:
                builder.keep(node)
