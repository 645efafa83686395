from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Weft


def test_a_new_project_runs_and_its_test_passes_offline(weft: Weft) -> None:
    result = weft("new", "facts")
    assert result.exit_code == 0, result.output
    assert "cd facts" in result.stdout
    folder = Path("facts")
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == {
        ".gitignore",
        "README.md",
        "app.py",
        "notes/tamrel.md",
        "test_app.py",
        "weft.toml",
    }
    assert (folder / "README.md").read_text("utf-8").startswith("# facts\n")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=folder,
        env={**os.environ, "WEFT_PROFILE_S": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "2 passed" in tested.stdout


def test_a_project_may_lie_elsewhere(weft: Weft) -> None:
    result = weft("new", "deep er/still/facts")
    assert result.exit_code == 0, result.output
    assert "cd 'deep er/still/facts'" in result.stdout
    assert Path("deep er/still/facts/README.md").read_text("utf-8").startswith("# facts\n")
    Path("file").touch()
    result = weft("new", "file/facts")
    assert result.exit_code == 2
    assert "'file' cannot be written: File exists" in result.stderr


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("taken", "'taken' exists already"),
        ("taken/../taken", "'taken/../taken' exists already"),
        ("1st", "'1st' cannot name a project"),
        ("deeper/1st", "'1st' cannot name a project"),
        ("", "'.' cannot name a project"),
        (".", "'.' cannot name a project"),
        ("taken/..", "'..' cannot name a project"),
    ],
)
def test_a_name_that_cannot_be_is_refused(weft: Weft, name: str, problem: str) -> None:
    Path("taken").mkdir()
    result = weft("new", name)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert [file.name for file in Path().iterdir()] == ["taken"]
