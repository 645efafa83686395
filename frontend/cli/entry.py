"""Where the `weft` command begins: nothing else is loaded yet, so that Ctrl-C ends it quietly."""

from __future__ import annotations

import os
import signal
from typing import Final, NoReturn

__all__ = ["INTERRUPTED", "main"]

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C."""

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main() -> None:
    """The entry point of the command."""
    if os.getpid() == 1:
        _go_on_in_a_child()
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # and not ignored, as in the background
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # while the import below still runs
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its errors come back as exceptions
    from .main import app

    signal.signal(signal.SIGINT, usual)
    app()


def _go_on_in_a_child() -> None:
    """What the first process of a container is to do besides: pass on signals, and bury orphans.

    The system gives it the children of processes that have died, and no signal without a handler of its own.
    """
    waited_for = {signal.SIGCHLD, *_PASSED_ON}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # one that is ignored is not waited for
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    child = os.fork()
    if child:
        _look_after(child, waited_for)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _look_after(child: int, waited_for: set[signal.Signals]) -> NoReturn:
    while True:
        told = signal.sigwaitinfo(waited_for)
        if told.si_signo == signal.SIGCHLD:
            _bury(child)
        elif told.si_code <= 0:  # sent by a process; what the terminal sends has come to the child, too
            os.kill(child, told.si_signo)


def _bury(child: int) -> None:
    """Take note of all that have ended; with the child, this process ends as it did."""
    while True:
        pid, how = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid == child:
            status = os.waitstatus_to_exitcode(how)
            os._exit(status if status >= 0 else 128 - status)
