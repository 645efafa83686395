from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from weft.frontend.cli import bench
from weft.frontend.cli.main import app

_SCRIPT = '''"""Tells what it was given.

More of it."""
import json, os, sys
from pathlib import Path
Path(__file__).with_suffix(".json").write_text(json.dumps([sys.argv[1:], os.environ["PYTHONPATH"]]))
sys.exit(3)
'''

_SLOW_TO_END = """
import time
try:
    print("measuring", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    print("shown", flush=True)
"""
_BENCH = """
import sys
from pathlib import Path
from weft.frontend.cli import bench
from weft.frontend.cli.main import app
bench._FOLDER = Path(sys.argv[1])
app(["bench", "long"])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench, "_FOLDER", tmp_path)
    return tmp_path


def test_a_benchmark_gets_its_own_options_and_gives_its_status(folder: Path) -> None:
    (folder / "speed.py").write_text(_SCRIPT)
    result = CliRunner().invoke(app, ["bench", "speed", "--repeats", "2", "--help"])
    assert result.exit_code == 3
    assert json.loads((folder / "speed.json").read_text()) == [["--repeats", "2", "--help"], str(folder)]


def test_benchmarks_are_listed_by_what_they_measure(folder: Path) -> None:
    (folder / "speed.py").write_text(_SCRIPT)
    assert CliRunner().invoke(app, ["bench"]).output.split(maxsplit=1) == [
        "speed",
        "Tells what it was given.\n",
    ]


def test_an_unknown_benchmark_is_refused_with_the_known_ones(folder: Path) -> None:
    (folder / "speed.py").write_text(_SCRIPT)
    result = CliRunner().invoke(app, ["bench", "sped"])
    assert result.exit_code == 2
    assert "there is no benchmark 'sped'; choose one of speed" in result.stderr


def test_outside_a_checkout_there_are_none(folder: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "engine"])
    assert result.exit_code == 2
    assert f"there are no benchmarks in {folder}" in result.stderr
    assert "run this in a checkout" in result.stderr


def test_ctrl_c_leaves_a_benchmark_the_time_to_show_what_it_has(folder: Path) -> None:
    (folder / "long.py").write_text(_SLOW_TO_END)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _BENCH, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "measuring\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "shown\n"
