"""Bad input: one clear line, a non-zero exit, no stack trace of ours, and a server that lives."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from weft.runtime.config import REFERENCE_MODEL

from .conftest import Server, weft


@pytest.fixture(autouse=True)
def still_alive(server: Server) -> Iterator[None]:
    """The server answers before and after."""
    yield
    assert server.client.describe().workers


def refused(result: Any, *said: str, status: int = 2) -> None:
    """The command failed with a message that says all of `said`, and shows no code of ours."""
    message = " ".join((result.stdout + result.stderr).split())
    assert result.returncode == status, message
    assert "Traceback" not in message
    for part in said:
        assert part in message, message


def copy_of_the_model(folder: Path) -> Path:
    """A folder with links to the files of the reference model."""
    copy = folder / "model"
    copy.mkdir()
    for file in REFERENCE_MODEL.iterdir():
        (copy / file.name).symlink_to(file)
    return copy


def test_a_missing_model_folder() -> None:
    refused(weft("serve", "--model", "/nowhere/model", "--listen", "127.0.0.1:0"), "/nowhere/model")


def test_corrupt_weights(tmp_path: Path) -> None:
    model = copy_of_the_model(tmp_path)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 not weights")
    refused(weft("serve", "--model", str(model), "--listen", "127.0.0.1:0"), "model.safetensors")


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(weft("serve", "--listen", f"127.0.0.1:{port}"), str(port))


def test_an_unknown_index(server: Server) -> None:
    result = server.weft("run", "rag", "-i", "question=x", "-i", "index=nowhere")
    refused(result, "unknown index 'nowhere'", "'handbook'", "program.py")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["-i", "quest=x"], "quest"),
        (["-i", "question=x", "-i", "k=many"], "k"),
        ([], "question"),
    ],
)
def test_wrong_arguments(server: Server, inputs: list[str], said: str) -> None:
    refused(server.weft("run", "rag", *inputs), said)


ASK: dict[str, Any] = {
    "version": 1,
    "name": "ask",
    "nodes": [
        {"id": 0, "input": {"name": "question"}},
        {"id": 1, "format": {"parts": [{"slot": "q"}]}, "args": {"q": {"node": 0}}},
    ],
    "outputs": [{"node": 1}],
}


def changed(**changes: Any) -> dict[str, Any]:
    """The graph with other fields."""
    return {**json.loads(json.dumps(ASK)), **changes}


def with_node(node: dict[str, Any]) -> dict[str, Any]:
    """The graph with another second node."""
    return changed(nodes=[ASK["nodes"][0], node])


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (with_node({"id": 1, "format": {"parts": [{"slot": "q"}]}, "args": {"q": {"node": 1}}}), "%1"),
        (with_node({"id": 1, "format": {"parts": [{"slot": "q"}]}, "args": {"q": {"node": 7}}}), "%7"),
        (with_node({"id": 1, "project": {"field": "x"}, "args": {"value": {"node": 0}}}), "must be data"),
        (with_node({"id": 1, "frobnicate": {}}), "frobnicate"),
        (changed(version=7), "version"),
        (changed(outputs=[{"node": 9}]), "%9"),
        (changed(nodes="none"), "nodes"),
    ],
    ids=["cycle", "dangling", "type", "operation", "version", "output", "shape"],
)
def test_malformed_graphs(server: Server, tmp_path: Path, graph: dict[str, Any], said: str) -> None:
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(graph))
    refused(server.weft("submit", str(file), "-i", "question=x"), said)


def test_a_graph_that_is_not_json(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "graph.json"
    file.write_text('{"version": 1,')
    refused(server.weft("submit", str(file)), "line 1")


def test_a_graph_with_a_string_of_fifty_megabytes(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(changed(name="x" * 50_000_000)))
    refused(server.weft("submit", str(file), "-i", "question=x"), "at most 16777216")


def test_an_input_of_fifty_megabytes(server: Server, tmp_path: Path) -> None:
    file, text = tmp_path / "graph.json", tmp_path / "question.txt"
    file.write_text(json.dumps(ASK))
    text.write_text("x" * 50_000_000)
    result = server.weft("submit", str(file), "-i", f"question=@{text}")
    refused(result, "16", status=1)


def test_an_unknown_target(server: Server) -> None:
    refused(server.weft("run", "nothing"), "there is no bundled app 'nothing'")


def test_a_server_that_does_not_answer() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    refused(weft("run", "rag", "-i", "question=x", "--server", address), address)
