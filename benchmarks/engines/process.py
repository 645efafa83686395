"""An engine in a process of its own: requests and answers as lines of JSON over its standard streams.

So no engine inherits another's threads, settings or memory, and each can have its own environment. Between
its turns an engine is stopped, as some use the CPU even when they have nothing to do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import torch

from .arms import ARMS, environment

__all__ = ["Answer", "Arm", "serve"]

_FOLDER: Final = str(Path(__file__).parents[1])
_START: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from engines.process import serve; serve(*sys.argv[2:])"
)


class Answer(NamedTuple):
    """What an engine made of a batch of prompts."""

    seconds: float
    tokens: list[list[int]]


class Arm:
    """An engine that runs in another process, until it is closed."""

    def __init__(self, name: str, folder: Path, threads: int, python: Sequence[str] = ()) -> None:
        """Start loading; raises RuntimeError if the engine cannot be loaded.

        `python` is the command of the Python that has the engine, if it is not this one.
        """
        self.name = name
        self._process = subprocess.Popen(
            [*(python or [sys.executable]), "-P", "-c", _START, _FOLDER, name, str(folder), str(threads)],
            env=environment(name, threads, elsewhere=bool(python)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()
        self._process.send_signal(signal.SIGSTOP)

    def run(self, prompts: list[list[int]], outputs: list[int]) -> Answer:
        """Continue each prompt by so many tokens, all prompts at once."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps([prompts, outputs]) + "\n")
        self._process.stdin.flush()
        answer = Answer(*json.loads(self._read()))
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise RuntimeError(f"{self.name} ended with status {self._process.returncode}")
        return line

    def __enter__(self) -> Arm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def serve(name: str, folder: str, threads: str) -> None:
    """Load an engine and answer what comes; the other side of `Arm`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    # Its `kernels.py` would be taken for the package of that name by transformers.
    sys.path[:] = [entry for entry in sys.path if entry != _FOLDER]
    torch.set_num_threads(int(threads))
    engine = ARMS[name](Path(folder))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        prompts, outputs = json.loads(line)
        began = time.perf_counter()
        tokens = engine(prompts, outputs)
        print(json.dumps(Answer(time.perf_counter() - began, tokens)), file=answers, flush=True)
