"""What holds for the folder of every bundled app."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from weft.frontend.cli.target import bundled_apps
from weft.frontend.verbs import Program

_ROOT = Path(__file__).resolve().parents[2]
_LINES = 100


@pytest.mark.parametrize("name", list(bundled_apps()))
def test_an_app_is_a_short_program_and_a_readme_that_says_how_to_run_it(name: str) -> None:
    folder = _ROOT / "apps" / name
    program = importlib.import_module(f"weft.apps.{name}").PROGRAM
    assert isinstance(program, Program)
    assert program.__doc__
    assert len((folder / "program.py").read_text("utf-8").splitlines()) < _LINES
    readme = (folder / "README.md").read_text("utf-8")
    assert readme.startswith(f"# {name}\n")
    assert f"\n$ weft run {name} " in readme
    assert re.search(r"```mermaid\nflowchart LR\n  .+\n```", readme, re.DOTALL)


def test_the_drawings_and_the_graph_file_are_current() -> None:
    command = [sys.executable, "-P", str(_ROOT / "scripts" / "draw_apps.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
