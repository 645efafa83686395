"""Ctrl-C while the command's own modules are being loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import os, signal, sys
from importlib.abc import MetaPathFinder
from weft.frontend.cli.entry import main

class Interrupting(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "weft.frontend.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.{handler})
sys.meta_path.insert(0, Interrupting())
sys.argv = ["weft", "--version"]
main()
"""


@pytest.mark.parametrize(
    ("handler", "status", "output"), [("default_int_handler", 130, ""), ("SIG_IGN", 0, "weft ")]
)
def test_ctrl_c_before_the_command_is_loaded_ends_it_quietly(handler: str, status: int, output: str) -> None:
    script = _SCRIPT.replace("{handler}", handler)
    ended = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (status, "")
    assert ended.stdout.startswith(output)
