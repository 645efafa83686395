"""Programs that a server offers by name: graphs from files, and Python programs lowered to graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from weft.frontend.client import Client
from weft.frontend.errors import TraceError
from weft.graph.codec import to_json
from weft.graph.deployment import every_node
from weft.graph.ir import Graph
from weft.graph.ops.common import Tool
from weft.runtime.config import Settings

from .preparation import prepare
from .problems import UsageProblem
from .submit import parse_graph, read_graph
from .target import load_program

__all__ = ["lowered", "prepare_all", "program_settings"]

_GRAPH: Final = ".json"


def program_settings(given: Iterable[str]) -> dict[str, str]:
    """The sources of programs that are given as `[NAME=]GRAPH.json` or `[NAME=]TARGET`, by name.

    Raises UsageProblem.
    """
    found: dict[str, str] = {}
    for item in given:
        name, _, source = item.rpartition("=")
        name = name or (Path(source).stem if _is_graph(source) else source.rpartition(":")[2])
        if name in found:
            raise UsageProblem(f"two programs are called {name!r}: give one another name, NAME={source}")
        found[name] = source
    return found


def lowered(programs: Mapping[str, str], max_bytes: int) -> dict[str, str]:
    """The graphs of the Python programs among these, as JSON, by name.

    Raises UsageProblem, GraphError for a file that holds no graph, and TraceError for a program without one.
    """
    texts: dict[str, str] = {}
    for name, source in programs.items():
        if _is_graph(source):
            graph = parse_graph(Path(source), read_graph(Path(source), max_bytes))
        else:
            graph = _lowered(name, source)
            texts[name] = to_json(graph)
        _check_tools(name, graph)
    return texts


def prepare_all(programs: Mapping[str, str], address: str, settings: Settings, *, quiet: bool) -> None:
    """Do what the bundled apps among the programs need, on the server at `address`. Raises ProgramError."""
    targets = [source for source in programs.values() if not _is_graph(source)]
    if targets:
        client = Client.of(address, settings)
        for target in targets:
            prepare(target, client, quiet=quiet)
        client.close()


def _is_graph(source: str) -> bool:
    return source.endswith(_GRAPH) or Path(source).is_file()


def _lowered(name: str, target: str) -> Graph:
    try:
        return load_program(target).graph()
    except TraceError as problem:
        raise TraceError(f"program {name!r} cannot be served by name: {problem}") from None


def _check_tools(name: str, graph: Graph) -> None:
    for node in every_node(graph):
        if isinstance(node.op, Tool) and node.op.where == "client":
            raise UsageProblem(
                f"program {name!r} cannot be served by name: its tool {node.op.tool!r} runs in the client's "
                "process; name the tool in the configuration (tools = …) and call it with server_tool()"
            )
