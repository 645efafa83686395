"""`weft bench`: the measurements of a checkout's folder `benchmarks`."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from .output import OUTPUT
from .problems import UsageProblem

__all__ = ["PASSES_OPTIONS_ON", "command"]

PASSES_OPTIONS_ON: Final = {"allow_extra_args": True, "allow_interspersed_args": False}
"""Settings of the command: what stands behind the name is not parsed here."""

_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def command(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Which one; without a name they are listed.", show_default=False)
    ] = None,
) -> None:
    """Measure weft beside what it competes with; options after the name are the benchmark's own."""
    found = _benchmarks(_FOLDER)
    if name is None:
        for each, file in found.items():
            OUTPUT.out(f"{each:12}{_summary(file)}", highlight=False)
        return
    if name not in found:
        raise UsageProblem(f"there is no benchmark {name!r}; choose one of {', '.join(found)}")
    environment = os.environ | {"PYTHONPATH": str(_FOLDER)}
    script = [sys.executable, "-P", str(found[name]), *context.args]
    raise typer.Exit(_status(subprocess.Popen(script, env=environment)))


def _status(benchmark: subprocess.Popen[bytes]) -> int:
    """How a benchmark ended. Ctrl-C reaches it, too, and it ends by itself, with what it has measured."""
    while True:
        try:
            return benchmark.wait()
        except KeyboardInterrupt:
            continue


def _benchmarks(folder: Path) -> dict[str, Path]:
    """The scripts, by name; raises UsageProblem where there are none."""
    found = {file.stem: file for file in sorted(folder.glob("*.py"))}
    if not found:
        raise UsageProblem(
            f"there are no benchmarks in {folder}: they are not installed with weft; run this in a checkout"
        )
    return found


def _summary(file: Path) -> str:
    """The first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
