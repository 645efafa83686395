"""Draw the graphs of the bundled apps in their READMEs, and write the graph file of the RAG app.

python -P scripts/draw_apps.py           # writes what is not current
python -P scripts/draw_apps.py --check   # says what is not current, and fails if anything is
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from weft import TraceError
from weft.frontend.cli.target import bundled_apps
from weft.graph.codec import to_json
from weft.graph.draw import mermaid
from weft.graph.ir import Graph

_APPS = Path(__file__).resolve().parents[1] / "apps"
_DRAWING = re.compile(r"(?<=```mermaid\n)flowchart LR\n.*?(?=\n```)", re.DOTALL)
_GRAPH_FILE = "rag"  # the app whose graph is there as a file, too


def main(arguments: list[str]) -> int:
    """Write, or check; the exit status."""
    stale = [(file, text) for file, text in _files() if not _same(file, text)]
    for file, text in stale:
        if "--check" in arguments:
            print(f"{file} is not current: run `python -P scripts/draw_apps.py`")
        else:
            file.write_text(text, encoding="utf-8")
    return int(bool(stale) and "--check" in arguments)


def _files() -> Iterator[tuple[Path, str]]:
    """Each file as it should be. Programs whose graphs grow as they run are drawn by hand."""
    for name in bundled_apps():
        try:
            graph = importlib.import_module(f"weft.apps.{name}").PROGRAM.graph()
        except TraceError:
            continue
        readme = _APPS / name / "README.md"
        yield readme, _drawn(readme.read_text(encoding="utf-8"), mermaid(graph))
        if name == _GRAPH_FILE:
            yield _APPS / name / "answer.json", to_json(_anonymous(graph)).rstrip() + "\n"


def _same(file: Path, text: str) -> bool:
    """Whether the file says what `text` says; the order of keys in JSON says nothing."""
    found = file.read_text(encoding="utf-8")
    return json.loads(found) == json.loads(text) if file.suffix == ".json" else found == text


def _drawn(text: str, graph: str) -> str:
    """The text of a README with the drawing in place of the one that is there."""
    return _DRAWING.sub(lambda _: graph, text, 1)


def _anonymous(graph: Graph) -> Graph:
    """The graph without source lines, which change with every edit."""
    return replace(graph, nodes=tuple(replace(node, location="") for node in graph))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
