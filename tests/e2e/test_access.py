"""A server with a key, and what clients, commands and workers get from it with the key and without."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from weft import Client, connect, gen, program, tool
from weft.frontend.errors import Unauthenticated

from .conftest import WEFT, Server, eventually, serving, weft

KEY = "a-long-secret"
KEYED = {**os.environ, "WEFT_API_KEY": KEY}


@tool
def shout(text: str) -> str:
    return text.upper()


@program
def one(topic: str) -> str:
    return gen(topic, max_tokens=4)


@program
async def own(topic: str) -> str:
    return await shout(await gen(topic, max_tokens=4))


def test_clients_need_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, "--api-key", KEY) as server:
        stranger, client = Client(server.address), Client(server.address, api_key=KEY)
        for call in (one.using(stranger), own.using(stranger)):
            with pytest.raises(Unauthenticated, match="set WEFT_API_KEY"):
                call("a")
        with pytest.raises(Unauthenticated):
            one.using(stranger).submit("a", detached=True)
        with pytest.raises(Unauthenticated):
            connect(server.address, api_key="another")
        text = one.using(client)("a")
        assert own.using(client)("a") == text.upper()
        assert one.using(client).submit("a", detached=True).result() == text
        assert "".join(one.using(client).stream("a")) == text
        monkeypatch.setenv("WEFT_API_KEY", KEY)
        assert one.using(Client(server.address))("a") == text
        for each in (stranger, client):
            each.close()


def test_commands_and_workers_need_the_key(tmp_path: Path) -> None:
    with serving(tmp_path, "--api-key", KEY) as server:
        refused = server.weft("models")
        assert refused.returncode == 1
        assert "set WEFT_API_KEY" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert weft("models", "--server", server.address, env=KEYED).returncode == 0
        _joins(server, tmp_path)


def _joins(server: Server, folder: Path) -> None:
    """A second worker is a member with the key."""
    command = [*WEFT, "worker", "--kind", "embed", "--connect", server.address]
    client = Client(server.address, api_key=KEY)
    before = len(client.describe().workers)
    with subprocess.Popen(command, env=KEYED, cwd=folder, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: len(client.describe().workers) == before + 1)
        process.terminate()
    client.close()
