"""`weft serve`: a server in the foreground."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from weft.runtime.config import Settings, load_settings
from weft.runtime.config_file import model_path
from weft.runtime.layout import ServerLayout
from weft.runtime.retrieval.place import expect_place
from weft.runtime.supervisor import StartupError, Supervisor

from .output import ERRORS, OUTPUT, print_json
from .registration import prepare_all, program_settings, registered
from .server import ConfigOption, JsonOption, TlsCaOption, TlsCertOption, TlsKeyOption, warn_if_open

__all__ = ["ModelOption", "command", "model_settings", "until_signal"]

ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="[NAME=]PATH", help="A language model's folder; the first is the default."
    ),
]


def command(
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to listen; by default 127.0.0.1:7420.")
    ] = None,
    model: ModelOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where indexes and the journal of detached runs are kept, unless databases have them.",
        ),
    ] = None,
    indexes: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The PostgreSQL database of the indexes; one with a password is safer in WEFT_INDEXES.",
        ),
    ] = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to speak HTTP, as OpenAI's servers do.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to answer Prometheus, if not where --http says."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="What clients and workers must send; safer in WEFT_API_KEY than here."
        ),
    ] = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_ca: TlsCaOption = None,
    program: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]GRAPH.json|TARGET",
            help="A program that clients may run by its name; over HTTP it is a model.",
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Start a server: an orchestrator and its workers. Ctrl-C ends it."""
    settings = load_settings(
        config,
        listen=listen,
        models=model_settings(model),
        data=data,
        indexes=indexes,
        http=http,
        metrics=metrics,
        api_key=api_key,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_ca=tls_ca,
        programs=program_settings(program) if program else None,
    )
    expect_place(settings.indexes.get_secret_value(), settings.data)
    programs = registered(settings)
    layout = ServerLayout(settings, settings.listen, programs.graphs, programs.hosted)
    asyncio.run(until_signal(lambda: _serve(layout, as_json)))


def model_settings(given: list[str] | None) -> list[dict[str, Any]] | None:
    """The settings of models that are given as `PATH` or `NAME=PATH`."""
    if not given:
        return None
    found = []
    for item in given:
        name, _, path = item.rpartition("=")
        found.append({"name": name, "path": model_path(Path.cwd(), path)})
    return found


async def until_signal(work: Callable[[], Any]) -> None:
    """Await the work's end, or SIGINT or SIGTERM, the first of which cancels it.

    What it then does to end its processes takes seconds at most, and is not cut short by a second one.
    """
    task = asyncio.ensure_future(work())
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    with suppress(asyncio.CancelledError):
        await task


async def _serve(layout: ServerLayout, as_json: bool) -> None:
    with ERRORS.status("starting") as status:
        supervisor = Supervisor(layout, lambda message: status.update(f"{message} …"))
        await supervisor.start()
    try:
        await asyncio.to_thread(prepare_all, supervisor.inside, layout.settings, quiet=as_json)
        _announce(layout.settings, supervisor, as_json)
        warn_if_open([layout.settings.listen, layout.settings.http], layout.settings)
        await supervisor.wait()
        raise StartupError("the orchestrator cannot be kept running; its messages stand above")
    finally:
        await supervisor.stop()


def _announce(settings: Settings, supervisor: Supervisor, as_json: bool) -> None:
    names, programs = [model.name for model in settings.models], sorted(settings.programs)
    address, http, metrics = supervisor.address, supervisor.http, supervisor.metrics
    scheme = "https" if settings.tls_cert else "http"
    if as_json:
        print_json(
            {
                "listening": address,
                "http": http or None,
                "metrics": metrics or None,
                "models": names,
                "programs": programs,
            }
        )
        return
    lines = [
        f"weft listens at {address}",
        *(["  with TLS: call it by a name of its certificate"] if settings.tls_cert else []),
        f"  models: {', '.join(names) or 'none'}",
        *([f"  programs: {', '.join(programs)}"] if programs else []),
        f"  call it: weft run rag -i question='…' --server {address}",
        f"  or in Python: weft.connect({address!r})",
        *([f"  or by OpenAI's clients: base_url='{scheme}://{http}/v1'"] if http else []),
        *([f"  metrics: {scheme}://{metrics or http}/metrics"] if metrics or http else []),
        "Ctrl-C ends it.",
    ]
    OUTPUT.out("\n".join(lines))
