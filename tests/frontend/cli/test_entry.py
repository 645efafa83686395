"""Before the command's own modules are loaded: Ctrl-C, and what falls to process 1 of a container."""

from __future__ import annotations

import signal
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


_FIRST = """
import ctypes, os, signal, sys
from types import SimpleNamespace
from weft.frontend.cli.entry import main

def app():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    read, write = os.pipe()
    if os.fork() == 0:
        orphan = os.fork()
        if orphan:
            os.write(write, str(orphan).encode())
        os._exit(0)
    os.wait()
    orphan = int(os.read(read, 16))
    while os.path.exists(f"/proc/{orphan}"):
        pass
    print("buried", flush=True)
    {end}

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
os.getpid = lambda: 1
sys.modules["weft.frontend.cli.main"] = SimpleNamespace(app=app)
main()
"""


@pytest.mark.parametrize(
    ("end", "sent", "status"),
    [
        ("sys.exit(7)", None, 7),
        ("signal.pause()", signal.SIGTERM, 128 + signal.SIGTERM),
        ("signal.sigwait({signal.SIGINT}); sys.exit(8)", signal.SIGINT, 8),
    ],
)
def test_the_first_process_of_a_container_buries_orphans_and_passes_on_signals(
    end: str, sent: signal.Signals | None, status: int
) -> None:
    command = [sys.executable, "-P", "-c", _FIRST.replace("{end}", end)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "buried\n"
        if sent is not None:
            process.send_signal(sent)
    assert process.returncode == status
