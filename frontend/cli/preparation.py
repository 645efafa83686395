"""What a bundled app has to do on a server before its program can run."""

from __future__ import annotations

from contextlib import nullcontext

from weft.frontend.client import Client

from .output import ERRORS
from .target import preparation_of

__all__ = ["prepare"]


def prepare(target: str, client: Client, *, quiet: bool) -> None:
    """Do what the bundled app that TARGET names needs, if it is one; a status line says so unless `quiet`.

    Raises ProgramError.
    """
    preparation = preparation_of(target)
    if preparation is None:
        return
    with nullcontext() if quiet else ERRORS.status(f"preparing {target} …"):
        preparation(client)
