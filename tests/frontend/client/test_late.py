"""Threads that begin to use weft when the main thread has ended, as long as they keep the process alive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_LATE = """
import threading
from weft import program, tool

@tool
def shout(text: str) -> str:
    return text.upper()

@program
def answer(question: str) -> str:
    return shout(text=question)

def late():
    threading.main_thread().join()
    print(answer("late"), answer.submit("later").result())

threading.Thread(target=late).start()
"""


def test_a_thread_that_outlives_the_main_one_may_be_the_first_to_run_a_program(tmp_path: Path) -> None:
    (tmp_path / "weft.toml").write_text("models = []\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LATE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("LATE LATER\n", "", 0)
