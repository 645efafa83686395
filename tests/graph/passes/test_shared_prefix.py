"""Common prefixes of very many prompts."""

from __future__ import annotations

from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.ir import Graph, Node
from weft.graph.live import LiveGraph
from weft.graph.ops.primitive import Prefill
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message

PROMPTS = 1200  # more than Python's stack has room for


def test_each_prompt_may_begin_with_the_one_before() -> None:
    texts = ["One more sentence. " * count for count in range(1, PROMPTS + 1)]
    nodes = tuple(Node(at, Generate((Message("raw", (text,)),))) for at, text in enumerate(texts))
    live = LiveGraph(Deployment({"m": ModelSpec("m", 100_000)}, "m"))
    live.extend(Graph(nodes, ()), closed=False)
    prefills = [node for node in live.nodes.values() if isinstance(node.op, Prefill)]
    assert len(prefills) == PROMPTS
    assert sum("kv" in node.args for node in prefills) == PROMPTS - 1
