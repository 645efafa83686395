"""Which server a command talks to, and the options that say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from weft.frontend.client import Client, embedded, use
from weft.runtime.addresses import is_local
from weft.runtime.config import Settings, client_settings

from .output import ERRORS
from .problems import UsageProblem

__all__ = [
    "ConfigOption",
    "InputOption",
    "JsonOption",
    "ServerOption",
    "TargetArgument",
    "TlsCaOption",
    "TlsCertOption",
    "TlsKeyOption",
    "client_for",
    "connected",
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
        "--server",
        metavar="[grpcs://]HOST:PORT",
        help="The server; by default WEFT_SERVER, else an embedded one.",
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Speak TLS to whoever connects, with this certificate (PEM)."),
]
TlsKeyOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The private key of --tls-cert (PEM).")
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Who vouches for those that this process calls by TLS (PEM); by default the public CAs.",
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
    settings = client_settings(config, server=server, models=models)
    if models and settings.server:
        raise UsageProblem(
            f"--model cannot be used with the server {settings.server}, which has models of its own"
        )
    return connected(settings.server or _start_embedded(settings), settings)


def connected(server: str, settings: Settings) -> Client:
    """The client of this server, which programs use from now on. Raises ConfigError and Unavailable."""
    client = Client.of(server, settings)
    client.describe()
    return use(client)


def warn_if_open(addresses: Iterable[str | None], settings: Settings) -> None:
    """Say so if a process listens there to other machines without a key, or without TLS for it."""
    doors = [address for address in addresses if address and not is_local(address)]
    where = " and ".join(doors)
    if doors and settings.key is None:
        _warn(f"{where}: open to other machines, without a key; set WEFT_API_KEY")
    elif doors and settings.tls_cert is None:
        _warn(f"{where}: other machines send the key unencrypted; set tls_cert and tls_key")


def _warn(message: str) -> None:
    ERRORS.print(f"warning: {message}", markup=False)


def _start_embedded(settings: Settings) -> str:
    with ERRORS.status("starting the embedded runtime") as status:
        return embedded.start(settings, lambda message: status.update(f"{message} …"))
