"""Where the `weft` command begins: nothing else is loaded yet, so that Ctrl-C ends it quietly."""

from __future__ import annotations

import os
import signal
from typing import Final

__all__ = ["INTERRUPTED", "main"]

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C."""


def main() -> None:
    """The entry point of the command."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # and not ignored, as in the background
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # while the import below still runs
    from .main import app

    signal.signal(signal.SIGINT, usual)
    app()
