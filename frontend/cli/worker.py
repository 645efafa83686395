"""`weft worker`: one worker process that joins a server, in the foreground."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from weft.frontend.errors import WeftError
from weft.runtime.config import WorkerConfig, client_settings
from weft.runtime.layout import worker_spec
from weft.runtime.processes import Child, LifeLine, ProcessSpec
from weft.runtime.retrieval.place import expect_place

from .output import ERRORS
from .problems import USAGE, UsageProblem
from .registration import registered
from .serve import ModelOption, model_settings, until_signal
from .server import ConfigOption, TlsCaOption, TlsCertOption, TlsKeyOption, warn_if_open

__all__ = ["command"]

_STOP_WITHIN_S = 2.5


class Kind(StrEnum):
    """The engines that a worker can run."""

    LLM = "llm"
    EMBED = "embed"
    INDEX = "index"
    RERANK = "rerank"
    TOOL = "tool"


def command(
    kind: Annotated[list[Kind], typer.Option(help="An engine that it runs; may be repeated.")],
    connect: Annotated[str, typer.Option(metavar="[grpcs://]HOST:PORT", help="The server that it joins.")],
    model: ModelOption = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where it listens.")] = "127.0.0.1:0",
    advertise: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the server reaches it, if elsewhere.")
    ] = "",
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_ca: TlsCaOption = None,
    config: ConfigOption = None,
) -> None:
    """Start a worker that joins a server. Ctrl-C ends it.

    On another machine: weft worker --kind llm --model /models/Qwen3-8B --connect SERVER:7420 --listen
    0.0.0.0:7430 --advertise THIS-MACHINE:7430
    """
    tls = {"tls_cert": tls_cert, "tls_key": tls_key, "tls_ca": tls_ca}
    settings = client_settings(config, server=connect, models=model_settings(model), **tls)
    llm = Kind.LLM in kind
    if llm and len(settings.models) != 1:
        raise UsageProblem(f"a worker runs one model, not {len(settings.models)}: name it with --model PATH")
    if Kind.INDEX in kind:
        expect_place(settings.indexes.get_secret_value(), settings.data)
    worker = WorkerConfig.of(
        settings,
        tuple(dict.fromkeys(engine.value for engine in kind)),
        listen=listen,
        advertise=advertise or None,
        orchestrator=connect,
        model=settings.models[0] if llm else None,
        programs=registered(settings).hosted if Kind.TOOL in kind else None,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
    )
    warn_if_open([listen], settings)
    ERRORS.print(f"worker ({', '.join(kind)}) joins {connect}; Ctrl-C ends it", markup=False)
    asyncio.run(_run(worker_spec(settings, worker, name="worker")))


async def _run(spec: ProcessSpec) -> None:
    await until_signal(lambda: _keep(spec))


async def _keep(spec: ProcessSpec) -> None:
    life_line = LifeLine()
    child = await Child.start(spec, life_line)
    try:
        child.forward_lines()
        how = await child.wait()
    finally:
        await child.stop(_STOP_WITHIN_S)
        life_line.close()
    if child.status == USAGE:
        raise UsageProblem(f"the worker {how}")
    raise WeftError(f"the worker {how}; start it again")
