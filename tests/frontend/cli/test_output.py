"""With `--json`, standard output has nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Weft

_LOUD = """
from weft import program, tool

print("loaded")

@tool
def shout(text: str) -> str:
    print("called")
    return text.upper()

@program
def loud(text: str) -> str:
    return shout(text)

@program
async def louder(text: str) -> str:
    print("running")
    return await shout(text)
"""


def test_what_programs_and_tools_print_goes_to_standard_error(weft: Weft, server: str) -> None:
    Path("loud.py").write_text(_LOUD)
    call = ("run", "loud.py:louder", "-i", "text=a", "--server", server)
    result = weft(*call, "--json")
    assert json.loads(result.stdout)["result"] == "A"
    assert result.stderr.split() == ["loaded", "running", "called"]
    assert weft(*call).stdout.split() == ["running", "called", "A"]  # loaded it is, in this process
    failed = weft("run", "loud.py:loud", "--json", "--server", server)
    assert json.loads(failed.stdout)["error"]["code"] == "invalid"
