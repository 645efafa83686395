"""Which server a command talks to, and the options that say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from weft.frontend.client import Client, connect, embedded
from weft.runtime.access import is_local
from weft.runtime.config import Settings, load_settings

from .output import ERRORS
from .problems import UsageProblem

__all__ = [
    "ConfigOption",
    "InputOption",
    "JsonOption",
    "ServerOption",
    "TargetArgument",
    "client_for",
    "warn_if_open",
]

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="A bundled app (rag, react, …), module:function or file.py:function."
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="HOST:PORT", help="The server; by default WEFT_SERVER, else an embedded one."
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration; by default WEFT_CONFIG, else ./weft.toml."),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input", "-i", metavar="NAME=VALUE", help="An input: JSON or text; @FILE reads it, @- from stdin."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, for programs to read.")]


def client_for(
    server: str | None, config: Path | None, models: Sequence[Mapping[str, Any]] | None = None
) -> Client:
    """Connect to the server that is asked for; without one, start an embedded runtime with these models.

    Programs use it from now on. Raises UsageProblem, ConfigError, StartupError and Unavailable.
    """
    settings = load_settings(config, server=server, models=models)
    if models and settings.server:
        raise UsageProblem(
            f"--model cannot be used with the server {settings.server}, which has models of its own"
        )
    return connect(settings.server or _start_embedded(settings), api_key=settings.key)


def warn_if_open(addresses: Iterable[str | None], key: str | None) -> None:
    """Say so if other machines can use a process that listens there without a key."""
    doors = [address for address in addresses if address and not is_local(address)]
    if doors and key is None:
        where = " and ".join(doors)
        ERRORS.print(
            f"warning: {where}: open to other machines, without a key; set WEFT_API_KEY", markup=False
        )


def _start_embedded(settings: Settings) -> str:
    with ERRORS.status("starting the embedded runtime") as status:
        return embedded.start(settings, lambda message: status.update(f"{message} …"))
