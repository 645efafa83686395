"""The `weft` command."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from . import bench, demo, explain, index, model, models, new, run, runs, serve, submit, worker
from .output import OUTPUT
from .problems import CommandGroup

__all__ = ["app"]

app = typer.Typer(
    name="weft",
    cls=CommandGroup,
    help="Run programs of language-model calls on models that you host.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(demo.command)
app.command("new")(new.command)
app.command("run")(run.command)
app.command("explain")(explain.command)
app.command("serve")(serve.command)
app.command("worker")(worker.command)
app.command("submit")(submit.command)
app.command("runs")(runs.command)
app.command("models")(models.command)
app.command("index")(index.command)
app.command("bench", context_settings=bench.PASSES_OPTIONS_ON)(bench.command)
app.add_typer(model.app, name="model")


def _write_version(wanted: bool) -> None:
    if wanted:
        OUTPUT.out(f"weft {importlib.metadata.version('weft')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_write_version, is_eager=True, help="Write the version.")
    ] = False,
) -> None:
    """Run programs of language-model calls on models that you host."""
