"""What a server offers, as far as graphs need to know: models, indexes, tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .costs import ModelCosts
from .errors import GraphError
from .ir import Graph, Node
from .ops.common import Neighbours, Search, Tool
from .ops.control import Cond, Fold, Loop, Map
from .ops.user import Generate, Ingest, Probe, Select
from .prompt import ChatRenderer
from .types import JSON, Type

__all__ = ["Deployment", "ModelSpec", "ToolSpec", "UnknownNameError", "every_node", "indexes_read"]


class UnknownNameError(GraphError):
    """A graph names a model, an index or a tool that the server does not have."""


@dataclass(frozen=True)
class ModelSpec:
    """A language model that some worker runs."""

    name: str
    context_length: int  # tokens
    chat: ChatRenderer | None = None  # None: the model has no chat template; prompts are plain text
    tokenizer: str = ""  # fingerprint
    costs: ModelCosts | None = None  # as measured by a worker that runs it
    processor: str = ""  # what it computes on; empty: unknown


@dataclass(frozen=True)
class ToolSpec:
    """A tool that a worker of the server runs."""

    name: str
    result: Type = JSON
    idempotent: bool = False
    pure: bool = False


@dataclass(frozen=True)
class Deployment:
    """The models, indexes and tools of a server at one moment."""

    models: Mapping[str, ModelSpec]
    default_model: str
    indexes: frozenset[str] = frozenset()
    tools: Mapping[str, ToolSpec] = field(default_factory=dict)
    embedder: str = ""  # the default embedding model; empty: none
    reranker: str = ""  # the cross-encoder; empty: the default model scores passages
    batches: Mapping[str, int] = field(default_factory=dict)
    """By kind of engine: the items in one call beyond which a larger one gains nothing, where measured."""
    item_ms: Mapping[str, float] = field(default_factory=dict)
    """By kind of engine: the time of one item in a call of that size."""
    processors: Mapping[str, str] = field(default_factory=dict)
    """By kind of engine, language models left out: what it computes on, where that is known."""

    def model(self, name: str) -> ModelSpec:
        """The model called `name`, or the default one for an empty name. Raises UnknownNameError."""
        found = self.models.get(name or self.default_model)
        if found is None:
            raise UnknownNameError(_unknown("model", name or self.default_model or "(default)", self.models))
        return found

    def check(self, graph: Graph, client_tools: Iterable[str] = ()) -> None:
        """Refuse a graph that names what is not there. Raises UnknownNameError with node and source line."""
        made = {node.op.index for node in every_node(graph) if isinstance(node.op, Ingest)}
        known = (self.indexes | made, frozenset(client_tools))
        for node in every_node(graph):
            try:
                self._check_node(node, *known)
            except UnknownNameError as problem:
                raise UnknownNameError(f"{node.where()}: {problem}") from None

    def _check_node(self, node: Node, indexes: frozenset[str], client_tools: frozenset[str]) -> None:
        match node.op:
            case Generate(model=model) | Select(model=model) | Probe(model=model):
                self.model(model)
            case Search(index=index) | Neighbours(index=index) if index not in indexes:
                raise UnknownNameError(_unknown("index", index, indexes) + "; fill it with ingest()")
            case Tool(tool=tool, where="server") if tool not in self.tools:
                raise UnknownNameError(_unknown("tool of the server", tool, self.tools))
            case Tool(tool=tool, where="client") if tool not in client_tools:
                raise UnknownNameError(
                    f"tool {tool!r} runs in the client's process, and this client does not answer for it; "
                    "run the program over a Run stream, or name the tool in the server's configuration"
                )
            case _:
                pass


def every_node(nodes: Iterable[Node]) -> Iterator[Node]:
    """The nodes of a graph and of the bodies inside it."""
    for node in nodes:
        yield node
        match node.op:
            case Map(body=body) | Loop(body=body) | Fold(body=body):
                yield from every_node(body)
            case Cond(then=then, otherwise=otherwise):
                yield from every_node(then)
                yield from every_node(otherwise)
            case _:
                pass


def indexes_read(node: Node) -> set[str]:
    """The indexes that a node reads, or one in the bodies inside it."""
    return {inner.op.index for inner in every_node([node]) if isinstance(inner.op, Search | Neighbours)}


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = ", ".join(sorted(map(repr, known))) or "none"
    return f"unknown {what} {name!r}; known: {names}"
