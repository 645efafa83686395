"""Checks that imports run downwards: a part of weft may import from those below it, never from those above.

Exit status 1 and one line an offence if not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

PARTS: Final = ("apps", "frontend", "runtime", "graph", "kernels", "proto")
"""From the top down."""
COMMAND: Final = "frontend.cli."
"""It may import all of the frontend, and nobody may import it."""
PACKAGE: Final = "weft"


class Import(NamedTuple):
    """A module that a file imports."""

    line: int
    module: str


def offences(root: Path) -> Iterator[str]:
    """What is wrong below `root`, one line each."""
    for part in PARTS:
        for file in sorted((root / part).rglob("*.py")):
            module = f"{PACKAGE}.{'.'.join(file.relative_to(root).with_suffix('').parts)}"
            for found in imports(ast.parse(file.read_text(encoding="utf-8")), module):
                problem = judge(module, found.module)
                if problem:
                    yield f"{file.relative_to(root)}:{found.line}: {problem}"


def imports(tree: ast.Module, module: str) -> Iterator[Import]:
    """All modules that the code of `module` imports, with absolute names."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(node.lineno, alias.name)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = module.split(".")[:-level] if level else []
                origin = ".".join([*base, *([source] if source else [])])
                for alias in names:
                    yield Import(node.lineno, f"{origin}.{alias.name}")
            case _:
                pass


def judge(importer: str, imported: str) -> str | None:
    """What is wrong with this import, if anything is."""
    top, _, rest = imported.partition(".")
    if top in PARTS:
        return f"import {PACKAGE}.{imported}, not {imported}: {top!r} may be another package"
    if top != PACKAGE:
        return None
    own, other = importer.split(".")[1], rest.split(".")[0]
    if other not in PARTS:
        return (
            None if own == "apps" else f"{own} must not import the façade {PACKAGE!r}, which stands above it"
        )
    if PARTS.index(other) < PARTS.index(own):
        return f"{own} must not import {other}, which stands above it"
    if f"{rest}.".startswith(COMMAND) and not f"{importer}.".startswith(f"{PACKAGE}.{COMMAND}"):
        return "only the command itself may import frontend.cli"
    return None


def main() -> int:
    """Check the repository that this script belongs to."""
    found = list(offences(Path(__file__).resolve().parents[1]))
    for offence in found:
        print(offence)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
