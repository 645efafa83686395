"""Programs that a server offers by name: graphs from files, and Python programs lowered to graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from weft.frontend.errors import TraceError
from weft.graph.codec import to_json
from weft.graph.deployment import every_node
from weft.graph.ir import Graph
from weft.graph.ops.common import Tool

from .problems import UsageProblem
from .target import load_program

__all__ = ["lowered", "program_settings"]

_GRAPH: Final = ".json"


def program_settings(given: Iterable[str]) -> dict[str, str]:
    """The sources of programs that are given as `[NAME=]GRAPH.json` or `[NAME=]TARGET`, by name.

    Raises UsageProblem.
    """
    found: dict[str, str] = {}
    for item in given:
        name, _, source = item.rpartition("=")
        name = name or (Path(source).stem if source.endswith(_GRAPH) else source.rpartition(":")[2])
        if name in found:
            raise UsageProblem(
                f"two programs are called {name!r}: give each a name of its own, NAME={source}"
            )
        found[name] = source
    return found


def lowered(programs: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """The files with the programs' graphs; those of Python programs are written into `folder`.

    Raises UsageProblem, and TraceError for programs that have no graph.
    """
    files: dict[str, Path] = {}
    for number, (name, source) in enumerate(programs.items()):
        if source.endswith(_GRAPH):
            files[name] = Path(source)
            continue
        files[name] = folder / f"{number}{_GRAPH}"
        files[name].write_text(to_json(_graph(name, source)), encoding="utf-8")
    return files


def _graph(name: str, target: str) -> Graph:
    try:
        graph = load_program(target).graph()
    except TraceError as problem:
        raise TraceError(f"program {name!r} cannot be served by name: {problem}") from None
    own = [
        node.op.tool for node in every_node(graph) if isinstance(node.op, Tool) and node.op.where == "client"
    ]
    if own:
        raise UsageProblem(
            f"program {name!r} cannot be served by name: its tool {own[0]!r} runs in the client's process; "
            "name the tool in the configuration (tools = …) and call it with server_tool()"
        )
    return graph
