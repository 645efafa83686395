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


def test_a_key_in_a_file_is_for_the_server_that_the_file_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, "--api-key", KEY) as server:
        files = {
            "any.toml": (f'api_key = "{KEY}"', True),
            "this.toml": (f'api_key = "{KEY}"\nserver = "{server.address}"', True),
            "other.toml": (f'api_key = "{KEY}"\nserver = "127.0.0.1:1"', False),
        }
        Path("weft.toml").write_text(files["any.toml"][0])
        Path("none.toml").touch()
        assert server.weft("models").returncode == 0
        assert server.weft("models", "--config", "none.toml").returncode == 1
        for name, (text, served) in files.items():
            Path(name).write_text(text)
            assert server.weft("models", "--config", name).returncode == (0 if served else 1)
            Path("weft.toml").write_text(text)
            with Client(server.address) as client:
                if served:
                    assert client.describe().workers
                else:
                    with pytest.raises(Unauthenticated):
                        client.describe()
        assert server.weft("models", env=KEYED).returncode == 0


def _joins(server: Server, folder: Path) -> None:
    """A second worker is a member with the key."""
    command = [*WEFT, "worker", "--kind", "embed", "--connect", server.address]
    client = Client(server.address, api_key=KEY)
    before = len(client.describe().workers)
    with subprocess.Popen(command, env=KEYED, cwd=folder, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: len(client.describe().workers) == before + 1)
        process.terminate()
    client.close()
