"""Generates the Python code of proto/*.proto: into proto/, or into the folder that is given.

``python scripts/generate_proto.py [FOLDER]``. Into a folder, the code comes below ``weft/proto/`` there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PROTO: Final = Path("weft", "proto")
OUTPUTS: Final = ("python_out=", "grpc_python_out=", "mypy_out=quiet:", "mypy_grpc_out=quiet:")


def generate(folder: Path) -> None:
    """Write the code below `folder`. Raises CalledProcessError if a file is malformed."""
    sources = sorted((ROOT / PROTO).glob("*.proto"))
    command = [sys.executable, "-P", "-m", "grpc_tools.protoc", "-I."]
    command += [f"--{output}{folder}" for output in OUTPUTS]
    command += [str(source.relative_to(ROOT)) for source in sources]
    plugins = Path(sys.executable).parent  # protoc finds protoc-gen-mypy through PATH
    path = f"{plugins}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=True)
    for source in sources:
        if "\nservice " not in source.read_text(encoding="utf-8"):
            for empty in (folder / PROTO).glob(f"{source.stem}_pb2_grpc.py*"):
                empty.unlink()


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
