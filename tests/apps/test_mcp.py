from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from weft.apps.mcp_agent.toolbox import Toolbox

SERVER = shlex.join([sys.executable, str(Path(__file__).parent / "data" / "notes_server.py")])


async def test_the_tools_of_a_server_are_listed_and_called() -> None:
    async with Toolbox(SERVER) as toolbox:
        add, remember, fail = toolbox.offers
        assert (add.name, add.purpose, add.reads_only, add.only_text) == ("add", "adds two numbers", True, "")
        assert (remember.reads_only, remember.only_text, fail.only_text) == (False, "text", "")
        assert Toolbox.opened[toolbox.id] is toolbox
        assert await toolbox.call("add", {"a": 2, "b": 3}) == "5"
        assert await toolbox.call("remember", {"text": "milk"}) == "1 notes"
        assert await toolbox.call("remember", {"text": "bread"}) == "2 notes"
        assert await toolbox.call("fail", {}) == "error: Error executing tool fail: out of paper"
        assert (await toolbox.call("add", {"a": "two"})).startswith("error: ")
    assert toolbox.id not in Toolbox.opened


async def test_a_server_that_does_not_start_is_an_error() -> None:
    with pytest.raises(Exception, match="no-such-command"):
        async with Toolbox("no-such-command --flag"):
            pass


async def test_without_the_sdk_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ImportError, match=r"pip install 'weft\[mcp\]'"):
        async with Toolbox(SERVER):
            pass
