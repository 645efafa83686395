"""Which processes make up a server: an orchestrator, workers for each model, and light ones for all else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .access import KEY
from .addresses import SCHEME
from .config import (
    INDEX_DATABASE,
    JOURNAL,
    MODEL_KEY,
    SERVER_VARIABLE,
    TLS_CA_VARIABLE,
    EngineKind,
    HostedPrograms,
    ModelSettings,
    OrchestratorConfig,
    Settings,
    WorkerConfig,
)
from .processes import ProcessSpec

__all__ = ["ServerLayout", "expected_engines", "light_kinds", "worker_spec"]

_ORCHESTRATOR: Final = "weft.runtime.orchestrator"
_WORKER: Final = "weft.runtime.worker"


@dataclass(frozen=True, slots=True)
class ServerLayout:
    """The processes that `settings` ask for, all on this machine."""

    settings: Settings
    listen: str | None = None
    """Where the orchestrator listens to clients and to workers that join; None: nowhere."""
    programs: Mapping[str, str] = field(default_factory=dict)
    """The graphs, as JSON, of those programs that no file holds."""
    hosted: HostedPrograms | None = None
    """The programs that a worker runs; their graphs are one call."""

    @property
    def key(self) -> str | None:
        """What the orchestrator wants to be sent."""
        return self.settings.key

    def inside(self, folder: Path) -> str:
        """Where the server's own processes reach the orchestrator."""
        return f"unix:{folder / 'orchestrator'}"

    def orchestrator(self, folder: Path, where: Mapping[str, str] | None = None) -> ProcessSpec:
        """The orchestrator, which reads the graphs of programs from files.

        `where`: what one has announced in whose place this one is to be, at the same ports.
        """
        inside = self.inside(folder)
        listen = self.listen or inside
        config = self.settings.absolute()
        programs = config.programs | self._written(folder)
        config = config.model_copy(update={"listen": listen, "programs": programs})
        if not self.listen:  # an embedded server is nobody else's, and nobody's runs outlive it
            idle = dict.fromkeys(("http", "metrics", "tls_cert", "tls_key", "tls_ca"))
            config = config.model_copy(update={**idle, "journal_mb": 0})
        if where is not None:
            listen = where["listening"].removeprefix(SCHEME)
            doors = {"listen": listen, "http": where.get("http"), "metrics": where.get("metrics")}
            config = config.model_copy(update=doors)
        document = config.model_dump(mode="json")
        document |= {"hosting": self.hosted is not None, "inside": inside if listen != inside else None}
        arguments = ("-m", _ORCHESTRATOR, "--config", json.dumps(document))
        secrets = _secrets(self.settings) | {JOURNAL: self.settings.journal.get_secret_value()}
        return ProcessSpec("orchestrator", arguments, secrets, announces=True)

    def _written(self, folder: Path) -> dict[str, Path]:
        files = {name: folder / f"program-{number}.json" for number, name in enumerate(self.programs)}
        for name, file in files.items():
            file.write_text(self.programs[name], encoding="utf-8")
        return files

    def workers(self, folder: Path) -> Sequence[ProcessSpec]:
        """The workers of each model, one for retrieval, and one for tools and programs if there are any.

        Tools have a process of their own, because nobody knows what they do to it.
        """
        inside = self.inside(folder)
        found = [
            worker_spec(
                self.settings,
                WorkerConfig.of(
                    self.settings,
                    ("llm",),
                    listen=f"unix:{folder / f'model-{number}-{copy}'}",
                    orchestrator=inside,
                    model=_one_of(model, copy),
                ),
                name=f"worker {model.name!r}{f' {copy + 1}' if model.workers > 1 else ''}",
            )
            for number, model in enumerate(self.settings.models)
            for copy in range(model.workers)
        ]
        for name, kinds in light_kinds(self.settings, hosting=self.hosted is not None).items():
            config = WorkerConfig.of(
                self.settings,
                kinds,
                listen=f"unix:{folder / name}",
                orchestrator=inside,
                programs=self.hosted if "tool" in kinds else None,
            )
            found.append(worker_spec(self.settings, config, name=f"worker {name!r}"))
        return found


def _one_of(model: ModelSettings, number: int) -> ModelSettings:
    """The settings of one of a model's workers, which share the machine's GPUs, or else its cores."""
    if model.workers == model.tensor_parallel == 1:
        return model
    device = f"{model.device}:{number}" if model.device == "auto" else model.device
    processes = model.workers * model.tensor_parallel
    threads = model.threads or max((os.cpu_count() or 1) // processes, 1)
    return model.model_copy(update={"device": device, "threads": threads})


def light_kinds(settings: Settings, *, hosting: bool = False) -> dict[str, tuple[EngineKind, ...]]:
    """The engines besides language models that the settings ask for, by worker.

    `hosting`: whether there are programs that a worker runs.
    """
    retrieval: tuple[EngineKind, ...] = ("embed", "index")
    if settings.reranker:
        retrieval = (*retrieval, "rerank")
    return {"retrieval": retrieval} | ({"tools": ("tool",)} if settings.tools or hosting else {})


def expected_engines(settings: Settings) -> list[tuple[str, str]]:
    """The kinds of all engines that the settings, programs included, ask for, and the names of models."""
    models = [("llm", model.name) for model in settings.models]
    hosting = isinstance(settings, OrchestratorConfig) and settings.hosting
    return models + [
        (kind, "") for kinds in light_kinds(settings, hosting=hosting).values() for kind in kinds
    ]


def worker_spec(settings: Settings, config: WorkerConfig, *, name: str) -> ProcessSpec:
    """How to start a worker.

    The modules of its tools and programs are found through `settings.import_paths`; what runs of programs
    they start, they start on the server that it joins.
    """
    paths = [str(path.absolute()) for path in settings.import_paths]
    if "PYTHONPATH" in os.environ:
        paths.append(os.environ["PYTHONPATH"])
    environment = _secrets(settings) | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
    if "tool" in config.kinds:
        environment[SERVER_VARIABLE] = config.orchestrator
        if config.tls_ca is not None:
            environment[TLS_CA_VARIABLE] = str(config.tls_ca)
    if config.model is not None and config.model.key is not None:
        environment[MODEL_KEY] = config.model.key.get_secret_value()
    if "index" in config.kinds:
        environment[INDEX_DATABASE] = settings.indexes.get_secret_value()
    arguments = ("-m", _WORKER, "--config", config.model_dump_json())
    return ProcessSpec(name, arguments, environment)


def _secrets(settings: Settings) -> dict[str, str]:
    return {} if settings.key is None else {KEY: settings.key}
