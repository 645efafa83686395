"""`weft run`: one run of a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from weft.frontend.client import Run
from weft.frontend.client.run import rest_of, result_text
from weft.frontend.verbs import Program
from weft.runtime.config import Settings, client_settings

from .answers import answered
from .inputs import parse_inputs
from .output import OUTPUT, print_json, print_value
from .preparation import prepare
from .problems import UsageProblem
from .reports import write_page, write_trace
from .serve import ModelOption, model_settings
from .server import ConfigOption, InputOption, JsonOption, ServerOption, TargetArgument, client_for
from .target import conversation_of, load_program

__all__ = ["command", "text_parameters"]

_MESSAGE: Final = "message"
"""The input without which a program that holds conversations asks for one in the terminal."""


def command(
    target: TargetArgument,
    inputs: InputOption = None,
    server: ServerOption = None,
    model: ModelOption = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write the text as the model writes it.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Write the id of the run and end; the run goes on.")
    ] = False,
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
    """Run a program and write its result. If it asks you something, answer in the terminal."""
    program = load_program(target)
    arguments = parse_inputs(inputs or (), text_parameters(program))
    settings = client_settings(config, server=server)
    if detach:
        _expect_detachable(settings, stream or trace or explain)
    talk = None if _MESSAGE in arguments else conversation_of(target)
    if talk is not None and as_json:
        raise UsageProblem(f"a conversation is no JSON: give one message, -i {_MESSAGE}=…")
    prepare(target, client_for(server, config, model_settings(model)), quiet=as_json)
    if talk is not None:
        talk(OUTPUT, **arguments)
        return
    run = program.submit(**arguments, stream=stream, detached=detach)
    if detach:
        print_json({"run": run.id}) if as_json else OUTPUT.print(run.id)
        return
    result = _follow(run, stream, as_json, alone=settings.server is None)
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


def _expect_detachable(settings: Settings, follows: object) -> None:
    if settings.server is None:
        raise UsageProblem("--detach needs a --server: an embedded one would end with this command")
    if follows:
        raise UsageProblem("--detach cannot be used with --stream, --trace or --explain: the run is not over")


def _follow(run: Run[Any], stream: bool, as_json: bool, *, alone: bool) -> Any:
    """Wait for the result of a run, and meanwhile write its text and ask what it asks. Ctrl-C cancels it."""
    streamed = ""
    try:
        for event in answered(run, alone=alone):
            if stream and (text := result_text(event)):
                streamed += text
                _write_piece(text, as_json)
    except KeyboardInterrupt:
        run.cancel()
        raise
    result = run.result()
    if stream:
        for piece in rest_of(result, streamed):
            _write_piece(piece, as_json)
        if not as_json:
            OUTPUT.out("")
    return result


def _write_piece(piece: Any, as_json: bool) -> None:
    if as_json:
        print_json({"piece": piece})
    elif isinstance(piece, str):
        OUTPUT.out(piece, end="", highlight=False)
        OUTPUT.file.flush()
    else:
        print_value(piece)
