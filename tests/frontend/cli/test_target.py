from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.frontend.cli.problems import UsageProblem
from weft.frontend.cli.target import bundled_apps, load_program

_CODE = """
from weft import program
from beside import GREETING

@program
def greet(name: str) -> str:
    return f"{GREETING} {name}"

def plain() -> None: ...
"""


@pytest.fixture(autouse=True)
def _code(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "hello.py").write_text(_CODE)
    (tmp_path / "inside.py").write_text("from .hello import greet\n")
    (tmp_path / "beside.py").write_text('GREETING = "Hello"\n')
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name in ("hello", "beside", "inside"):
            del sys.modules[name]


@pytest.mark.parametrize("target", ["hello:greet", "hello.py:greet", "./hello.py:greet"])
def test_a_program_is_found_in_modules_and_files_with_what_stands_beside(target: str) -> None:
    assert load_program(target).name == "greet"


def test_a_file_is_run_once_for_all_of_its_programs(tmp_path: Path) -> None:
    file = tmp_path / "hello.py"
    file.write_text(_CODE + "\nraise OSError('down')\n")
    for _ in "12":
        with pytest.raises(OSError, match="down"):
            load_program("hello.py:greet")
    file.write_text(_CODE + "\nagain = greet\n")
    assert load_program("hello.py:greet") is load_program("hello.py:again")


def test_bundled_apps_are_known_by_name() -> None:
    names = list(bundled_apps())
    assert {"rag", "rag_advanced", "react"} <= set(names)
    assert "reference_model" not in names
    assert load_program("rag").name == "answer"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("p.py", r"which program of 'p\.py'\? Write p\.py:function"),
        ("nope", r"there is no bundled app 'nope' \(there are: .*rag, .*react.*\)"),
        ("nope:greet", r"there is no module 'nope' here"),
        ("hello.nope:greet", r"there is no module 'hello.nope' here"),
        ("nope.py:greet", r"there is no file 'nope.py'"),
        ("hello.py:nope", r"there is no 'nope' in 'hello.py'; its programs: greet"),
        ("hello.py:plain", r"'plain' in 'hello.py' is no program: decorate it with @program"),
        (
            "inside.py:greet",
            r"'inside.py' imports from its package .*: .* PACKAGE\.inside:",
        ),
        ("./hello:greet", r"'./hello' is not the name of a module; .*: ./hello.py"),
        (":greet", r"there is no bundled app ':greet'"),
    ],
)
def test_what_is_not_there_is_refused(target: str, message: str) -> None:
    with pytest.raises(UsageProblem, match=f"^{message}"):
        load_program(target)


def test_errors_of_the_file_itself_are_not_hidden() -> None:
    Path("beside.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        load_program("hello.py:greet")
