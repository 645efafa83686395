"""`weft explain`: what the optimizer does to a program."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from weft.frontend.explanation import ExplainedPass
from weft.graph.codec import to_json

from .inputs import parse_inputs
from .output import OUTPUT, print_json
from .preparation import prepare
from .problems import UsageProblem
from .run import text_parameters
from .server import ConfigOption, InputOption, JsonOption, ServerOption, TargetArgument, client_for
from .target import load_program

__all__ = ["command"]


def command(
    target: TargetArgument,
    inputs: InputOption = None,
    server: ServerOption = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Write Markdown with Mermaid diagrams.")] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Write only the graph as written, for `weft submit`.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the graph of a program as written and after each pass; -i gives its static parameters."""
    if mermaid + graph + as_json > 1:
        raise UsageProblem("only one of --mermaid, --graph and --json can be used")
    program = load_program(target)
    static = parse_inputs(inputs or (), text_parameters(program))
    if graph:
        OUTPUT.out(to_json(program.graph(**static)), highlight=False)
        return
    prepare(target, client_for(server, config), quiet=as_json)
    explanation = program.explain(**static)
    if as_json:
        print_json([_plain(step) for step in explanation.passes])
    elif mermaid:
        for step in explanation.passes:
            OUTPUT.out(
                f"## {step.name}\n\n{step.summary}\n\n```mermaid\n{step.mermaid}\n```\n", highlight=False
            )
    else:
        OUTPUT.out(str(explanation), highlight=False)


def _plain(step: ExplainedPass) -> dict[str, object]:
    """A pass as JSON data."""
    plain: dict[str, object] = {
        field: getattr(step, field) for field in ("name", "summary", "text", "mermaid", "milliseconds")
    }
    return plain | {"changes": list(map(asdict, step.changes)), "refusals": list(map(asdict, step.refusals))}
