"""`weft run`: one run of a program."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from weft.frontend.client import Run
from weft.frontend.verbs import Program

from .inputs import parse_inputs
from .output import ERRORS, OUTPUT, print_json, print_value
from .preparation import prepare
from .problems import UsageProblem
from .reports import write_page
from .serve import ModelOption, model_settings
from .server import ConfigOption, InputOption, JsonOption, ServerOption, TargetArgument, client_for
from .target import load_program

__all__ = ["command", "text_parameters", "write_trace"]


def command(
    target: TargetArgument,
    inputs: InputOption = None,
    server: ServerOption = None,
    model: ModelOption = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write the text as the model writes it.")] = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write a trace for ui.perfetto.dev.")
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option("--explain", metavar="FILE", help="Write a page on where the time of the run went."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Run a program and write its result."""
    program = load_program(target)
    arguments = parse_inputs(inputs or (), text_parameters(program))
    prepare(target, client_for(server, config, model_settings(model)), quiet=as_json)
    run = program.submit(**arguments, stream=stream)
    if stream:
        _write_stream(run.pieces(), as_json)
    result = run.result()
    if trace:
        write_trace(run, trace)
    if explain:
        write_page(run.explain(), explain)
    if stream:
        return
    if as_json:
        print_json({"run": run.id, "state": run.status, "result": result})
    else:
        print_value(result)


def text_parameters(program: Program[..., Any]) -> dict[str, bool]:
    """The names of a program's parameters, and whether each is a string."""
    schemas = {name: json.loads(schema) for name, schema in program.parameters.items()}
    return {name: schema.get("type") == "string" for name, schema in schemas.items()}


def write_trace(run: Run[Any], file: Path) -> None:
    """Write the trace of a run that is over. Raises UsageProblem if the file cannot be written."""
    try:
        file.write_text(json.dumps(run.trace()), encoding="utf-8")
    except OSError as problem:
        raise UsageProblem(f"the trace cannot be written to {str(file)!r}: {problem.strerror}") from None
    ERRORS.print(f"trace: {file} (open it at https://ui.perfetto.dev)", markup=False)


def _write_stream(pieces: Iterable[Any], as_json: bool) -> None:
    for piece in pieces:
        if as_json:
            print_json({"piece": piece})
        elif isinstance(piece, str):
            OUTPUT.out(piece, end="", highlight=False)
            OUTPUT.file.flush()
        else:
            print_value(piece)
    if not as_json:
        OUTPUT.out("")
