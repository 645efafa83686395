"""`weft submit`: a workflow graph from a JSON file, with no Python program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from weft.frontend.client import Client
from weft.frontend.client.faults import error_of
from weft.graph.codec import decode_datum, from_json
from weft.graph.errors import GraphError
from weft.graph.ir import Graph
from weft.graph.ops.common import Input
from weft.graph.types import TEXT
from weft.graph.values import plain
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.config import client_settings

from .inputs import parse_inputs
from .output import OUTPUT, print_json, print_value
from .problems import UsageProblem
from .reports import write_trace
from .server import ConfigOption, InputOption, JsonOption, ServerOption, client_for

__all__ = ["command", "invoke", "parse_graph", "read_graph"]


def command(
    file: Annotated[Path, typer.Argument(metavar="GRAPH.json", help="A workflow graph.")],
    inputs: InputOption = None,
    server: ServerOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Write the id of the run and end; the run goes on.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write a trace for ui.perfetto.dev.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Run a workflow graph from a file and write its result."""
    settings = client_settings(config, server=server)
    if detach and settings.server is None:
        raise UsageProblem("--detach needs a --server: an embedded one would end with this command")
    if detach and trace:
        raise UsageProblem("--detach and --trace cannot be used together: the run is not over by then")
    text = read_graph(file, settings.max_message_mb * 2**20)
    request = _request(parse_graph(file, text), text, inputs or ())
    client = client_for(server, config)
    if detach:
        info = client.call(lambda stub: stub.Submit(request))
        print_json({"run": info.run}) if as_json else OUTPUT.print(info.run)
        return
    info, result = invoke(client, request)
    if trace:
        write_trace(client.run(info.run), trace)
    if as_json:
        print_json({"run": info.run, "state": info.state, "result": result})
    else:
        print_value(result)


def read_graph(file: Path, max_bytes: int) -> str:
    """The text of the file. Raises UsageProblem; a file that is too large is not read."""
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise UsageProblem(f"{file}: {size} bytes are too many for a graph; at most {max_bytes} are read")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageProblem(f"{file}: cannot be read: {reason}") from None


def parse_graph(file: Path, text: str) -> Graph:
    """The graph that the text says. Raises GraphError that names the file."""
    try:
        return from_json(text)
    except GraphError as problem:
        raise GraphError(f"{file}: {problem}") from None


def invoke(client: Client, request: pb.SubmitRequest) -> tuple[pb.RunInfo, Any]:
    """Run a graph to its end; Ctrl-C cancels it. Its result: that of its outputs, a list if not one.

    Raises ProgramError.
    """
    answer = client.call(lambda stub: stub.Invoke(request))
    if answer.HasField("fault"):
        raise error_of(answer.fault, answer.info.program)
    outputs = [plain(decode_datum(output)) for output in answer.outputs]
    return answer.info, outputs[0] if len(outputs) == 1 else outputs


def _request(graph: Graph, text: str, given: Sequence[str]) -> pb.SubmitRequest:
    texts = {node.op.name: node.op.type == TEXT for node in graph if isinstance(node.op, Input)}
    inputs = parse_inputs(given, texts)
    return pb.SubmitRequest(
        graph_json=text, inputs={name: json.dumps(value) for name, value in inputs.items()}
    )
