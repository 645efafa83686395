"""Connections to servers that stand still."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from weft import Client
from weft.frontend.client import connection
from weft.frontend.errors import Unavailable

_SOONER = 20  # times, than over networks
_PINGS = ("grpc.keepalive_time_ms", "grpc.http2.ping_timeout_ms")


def test_whoever_waits_for_a_server_that_stands_still_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [(name, value // _SOONER if name in _PINGS else value) for name, value in connection._OPTIONS]
    monkeypatch.setattr(connection, "_OPTIONS", options)
    config = json.dumps({"listen": f"unix:{tmp_path}/s", "models": []})
    command = [sys.executable, "-P", "-m", "weft.runtime.orchestrator", "--config", config]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        with Client(json.loads(server.stdout.readline())["listening"]) as client:
            client.describe()
            server.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(Unavailable, match="ping timeout"):
                    client.describe()
            finally:
                server.kill()
