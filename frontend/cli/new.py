"""`weft new`: a project to begin with."""

from __future__ import annotations

import re
import shlex
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Final

import typer

from .output import OUTPUT
from .problems import UsageProblem

__all__ = ["command"]

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_PLACEHOLDER: Final = "NAME"
_SUFFIX: Final = ".txt"  # of all files of the template, so that no tool takes them for what they will be
_HIDDEN: Final = frozenset({"gitignore"})  # names that get a leading dot


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder to make; its last part names the project.")
    ],
) -> None:
    """Start a project: a program, a test of it that runs offline, and settings."""
    name = folder.name or str(folder)  # `.` has none
    if not _NAME.fullmatch(name):
        raise UsageProblem(f"{name!r} cannot name a project: letters, digits, - and _, a letter first")
    try:
        if folder.exists():
            raise UsageProblem(f"{str(folder)!r} exists already")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(files(__package__) / "template", folder, name)
    except OSError as problem:
        raise UsageProblem(f"{problem.filename!r} cannot be written: {problem.strerror}") from None
    OUTPUT.out(
        f"made {folder}; go on with:\n\n"
        f"  cd {shlex.quote(str(folder))}\n"
        '  weft run app.py:answer -i question="Who is the chief executive of Tamrel Works?"\n'
        "  pytest"
    )


def _write(template: Traversable, folder: Path, name: str) -> None:
    folder.mkdir()
    for source in template.iterdir():
        target = source.name.removesuffix(_SUFFIX)
        if source.is_dir():
            _write(source, folder / target, name)
        else:
            place = folder / (f".{target}" if target in _HIDDEN else target)
            place.write_text(source.read_text("utf-8").replace(_PLACEHOLDER, name), encoding="utf-8")
