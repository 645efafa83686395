"""Programs that a server offers by name: graphs from files, and Python programs.

A Python program whose graph is known before it runs is lowered to that. Others run in a worker of the server,
beside its tools: async programs, and those that call tools of their own process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weft.frontend.client import Client
from weft.frontend.errors import TraceError
from weft.frontend.hosted import as_tool, call_of
from weft.frontend.program import AsyncProgram
from weft.frontend.verbs import Program
from weft.graph.codec import to_json
from weft.graph.deployment import every_node
from weft.graph.ir import Graph
from weft.graph.ops.common import Tool
from weft.runtime.config import HostedPrograms, Settings
from weft.runtime.worker.engines.tool_loading import ServerTool

from .preparation import prepare
from .problems import UsageProblem
from .submit import parse_graph, read_graph
from .target import load_program

__all__ = ["Registered", "load_hosted", "prepare_all", "program_settings", "registered"]

_GRAPH: Final = ".json"
_LOADER: Final = f"{__name__}:load_hosted"


@dataclass(frozen=True)
class Registered:
    """What becomes of the programs of a server."""

    graphs: Mapping[str, str]
    """Of Python programs, as JSON, by name."""
    hosted: HostedPrograms | None
    """Those of them that a worker runs."""


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


def registered(settings: Settings) -> Registered:
    """What becomes of the programs of the settings, which are paths of graphs, or TARGETs.

    Raises UsageProblem, GraphError for a file that holds no graph, and TraceError for a program that cannot
    be traced.
    """
    graphs: dict[str, str] = {}
    hosted: dict[str, str] = {}
    max_bytes = settings.max_message_mb * 2**20
    sys.path[:0] = [str(path.absolute()) for path in settings.import_paths]  # as in workers
    for name, path in settings.programs.items():
        source = str(path)
        if _is_graph(source):
            _check_tools(name, parse_graph(path, read_graph(path, max_bytes)))
            continue
        graph, runs_code = _graph_of(load_program(source), name)
        graphs[name] = to_json(graph)
        if runs_code:
            hosted[name] = source
    return Registered(graphs, HostedPrograms(loader=_LOADER, sources=hosted) if hosted else None)


def load_hosted(name: str, source: str) -> ServerTool:
    """A program as a tool of the worker that this process is. Raises whatever its module raises."""
    return as_tool(load_program(source), name)


def prepare_all(address: str, settings: Settings, *, quiet: bool) -> None:
    """Do what the bundled apps among the programs need, on the server at `address`. Raises ProgramError."""
    targets = [source for source in map(str, settings.programs.values()) if not _is_graph(source)]
    if targets:
        client = Client.of(address, settings)
        for target in targets:
            prepare(target, client, quiet=quiet)
        client.close()


def _is_graph(source: str) -> bool:
    return source.endswith(_GRAPH) or Path(source).is_file()


def _graph_of(program: Program[..., Any], name: str) -> tuple[Graph, bool]:
    """The graph by which a program is run, and whether that calls its Python code. Raises TraceError."""
    try:
        if not isinstance(program, AsyncProgram):
            graph = program.graph()
            if not any(_client_tools(graph)):
                return graph, False
        return call_of(program, name), True
    except TraceError as problem:
        raise TraceError(f"program {name!r} cannot be served by name: {problem}") from None


def _check_tools(name: str, graph: Graph) -> None:
    for tool in _client_tools(graph):
        raise UsageProblem(
            f"program {name!r} cannot be served by name: its tool {tool!r} runs in the client's "
            "process; name the tool in the configuration (tools = …) and call it with server_tool()"
        )


def _client_tools(graph: Graph) -> Iterator[str]:
    for node in every_node(graph):
        if isinstance(node.op, Tool) and node.op.where == "client":
            yield node.op.tool
