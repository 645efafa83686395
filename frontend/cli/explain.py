"""`weft explain`: what the optimizer does to a program."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.graph.codec import to_json

from .inputs import parse_inputs
from .output import OUTPUT
from .preparation import prepare
from .problems import UsageProblem
from .reports import HtmlOption, MermaidOption, write_report
from .run import text_parameters
from .server import ConfigOption, InputOption, JsonOption, ServerOption, TargetArgument, client_for
from .target import load_program

__all__ = ["command"]


def command(
    target: TargetArgument,
    inputs: InputOption = None,
    server: ServerOption = None,
    html: HtmlOption = None,
    mermaid: MermaidOption = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Write only the graph as written, for `weft submit`.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what each pass does to a program's graph, and why; -i gives its static parameters."""
    if (html is not None) + mermaid + graph + as_json > 1:
        raise UsageProblem("only one of --html, --mermaid, --graph and --json can be used")
    program = load_program(target)
    static = parse_inputs(inputs or (), text_parameters(program))
    if graph:
        OUTPUT.out(to_json(program.graph(**static)), highlight=False)
        return
    prepare(target, client_for(server, config), quiet=as_json)
    write_report(program.explain(**static), html=html, mermaid=mermaid, as_json=as_json)
