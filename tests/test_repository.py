"""The repository as a whole: how it is imported, and what is generated in it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_PARTS = ("apps", "frontend", "runtime", "graph", "kernels", "proto")


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(_ROOT / "scripts" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("part", _PARTS)
def test_a_part_is_found_in_the_package_and_nowhere_else(part: str) -> None:
    found = find_spec(f"weft.{part}")
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin).resolve() == _ROOT / part / "__init__.py"
    other = find_spec(part)
    assert other is None or not Path(str(other.origin)).resolve().is_relative_to(_ROOT / part)


def test_the_generated_code_is_current(tmp_path: Path) -> None:
    result = _run("generate_proto.py", str(tmp_path))
    assert result.returncode == 0, result.stderr
    generated = {file.name: file.read_text() for file in (tmp_path / "weft" / "proto").iterdir()}
    committed = {file.name: file.read_text() for file in (_ROOT / "proto").glob("*_pb2*.py*")}
    assert generated.keys() == committed.keys()
    stale = [name for name in generated if generated[name] != committed[name]]
    assert not stale, "run `make proto`"


def test_imports_run_downwards() -> None:
    result = _run("check_imports.py")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("weft.graph.ir", "from weft.runtime.config import Settings", "graph must not import runtime"),
        ("weft.graph.ir", "from ..runtime import config", "graph must not import runtime"),
        ("weft.runtime.x", "import weft.frontend.var", "runtime must not import frontend"),
        ("weft.runtime.x", "from weft import program", "runtime must not import the façade"),
        ("weft.frontend.x", "import graph.ir", "import weft.graph.ir, not graph.ir"),
        ("weft.frontend.x", "from .cli import main", "only the command itself"),
        ("weft.frontend.x", "from .client import Client", None),
        ("weft.frontend.cli.run", "from .output import OUTPUT", None),
        ("weft.apps.rag.program", "from weft import program", None),
        ("weft.runtime.x", "from weft.graph.ir import Graph", None),
        ("weft.graph.ir", "import graphlib", None),
    ],
)
def test_the_check_of_imports_tells_up_from_down(
    tmp_path: Path, module: str, line: str, complaint: str | None
) -> None:
    file = tmp_path / Path(*module.split(".")[1:]).with_suffix(".py")
    file.parent.mkdir(parents=True)
    file.write_text(f"{line}\n")
    script = tmp_path / "scripts" / "check_imports.py"
    script.parent.mkdir()
    script.write_text((_ROOT / "scripts" / "check_imports.py").read_text())
    result = subprocess.run([sys.executable, "-P", str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == (0 if complaint is None else 1)
    assert (complaint or "") in result.stdout
