"""The public names."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args, get_origin

import pytest

import weft

NAMES = [
    "Chunking",
    "Client",
    "Context",
    "Document",
    "Emitted",
    "Event",
    "Interrupted",
    "Message",
    "ModelCall",
    "NodeChanged",
    "Passage",
    "Program",
    "ProgramError",
    "RetryPolicy",
    "Run",
    "RunFinished",
    "RunStarted",
    "Static",
    "TextAdded",
    "TimeoutPolicy",
    "ToolCall",
    "ToolEnded",
    "ToolStarted",
    "TraceError",
    "Turn",
    "Var",
    "WeftError",
    "cond",
    "connect",
    "embed",
    "emit",
    "fake_model",
    "fold",
    "gen",
    "ingest",
    "interrupt",
    "loop",
    "map",
    "neighbours",
    "program",
    "rerank",
    "search",
    "select",
    "server_tool",
    "tool",
]


def test_the_names_are_these() -> None:
    assert weft.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(weft, name)
    assert all((get_origin(part) or part).__doc__ for part in get_args(found) or (found,))
    assert name in dir(weft)


def test_an_unknown_name() -> None:
    name = "nothing"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(weft, name)


def test_server_processes_do_not_load_the_language() -> None:
    code = "import sys, weft.graph.live; print([m for m in sys.modules if m.startswith('weft.frontend')])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
