"""Which processes make up a server: an orchestrator, workers for each model, and light ones for all else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .access import KEY
from .config import INDEX_DATABASE, JOURNAL, MODEL_KEY, EngineKind, ModelSettings, Settings, WorkerConfig
from .processes import ProcessSpec

__all__ = ["ServerLayout", "expected_engines", "light_kinds", "worker_spec"]

_ORCHESTRATOR: Final = "weft.runtime.orchestrator"
_WORKER: Final = "weft.runtime.worker"


@dataclass(frozen=True, slots=True)
class ServerLayout:
    """The processes that `settings` ask for, all on this machine."""

    settings: Settings
    listen: str | None = None
    """Where the orchestrator listens; None: at a Unix socket in the server's private folder."""
    programs: Mapping[str, str] = field(default_factory=dict)
    """The graphs, as JSON, of those programs that no file holds."""

    @property
    def key(self) -> str | None:
        """What the orchestrator wants to be sent."""
        return self.settings.key

    def orchestrator(self, folder: Path, where: Mapping[str, str] | None = None) -> ProcessSpec:
        """The orchestrator, which reads the graphs of programs from files.

        `where`: what one has announced in whose place this one is to be, at the same ports.
        """
        listen = self.listen or f"unix:{folder / 'orchestrator'}"
        config = self.settings.absolute()
        programs = config.programs | self._written(folder)
        config = config.model_copy(update={"listen": listen, "programs": programs})
        if not self.listen:  # an embedded server is nobody else's, and nobody's runs outlive it
            config = config.model_copy(update={"http": None, "metrics": None, "journal_mb": 0})
        if where is not None:
            doors = {"listen": where["listening"], "http": where.get("http"), "metrics": where.get("metrics")}
            config = config.model_copy(update=doors)
        arguments = ("-m", _ORCHESTRATOR, "--config", config.model_dump_json(exclude={"api_key"}))
        secrets = _secrets(self.settings) | {JOURNAL: self.settings.journal.get_secret_value()}
        return ProcessSpec("orchestrator", arguments, secrets, announces=True)

    def _written(self, folder: Path) -> dict[str, Path]:
        files = {name: folder / f"program-{number}.json" for number, name in enumerate(self.programs)}
        for name, file in files.items():
            file.write_text(self.programs[name], encoding="utf-8")
        return files

    def workers(self, folder: Path, address: str) -> Sequence[ProcessSpec]:
        """The workers of each model, one for retrieval, and one for tools if there are any.

        Tools have a process of their own, because nobody knows what they do to it.
        """
        found = [
            worker_spec(
                self.settings,
                WorkerConfig.of(
                    self.settings,
                    ("llm",),
                    listen=f"unix:{folder / f'model-{number}-{copy}'}",
                    orchestrator=address,
                    model=_one_of(model, copy),
                ),
                name=f"worker {model.name!r}{f' {copy + 1}' if model.workers > 1 else ''}",
            )
            for number, model in enumerate(self.settings.models)
            for copy in range(model.workers)
        ]
        for name, kinds in light_kinds(self.settings).items():
            config = WorkerConfig.of(
                self.settings, kinds, listen=f"unix:{folder / name}", orchestrator=address
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


def light_kinds(settings: Settings) -> dict[str, tuple[EngineKind, ...]]:
    """The engines besides language models that the settings ask for, by worker."""
    retrieval: tuple[EngineKind, ...] = ("embed", "index")
    if settings.reranker:
        retrieval = (*retrieval, "rerank")
    return {"retrieval": retrieval} | ({"tools": ("tool",)} if settings.tools else {})


def expected_engines(settings: Settings) -> list[tuple[str, str]]:
    """The kinds of all engines that the settings ask for, and the names of language models."""
    models = [("llm", model.name) for model in settings.models]
    return models + [(kind, "") for kinds in light_kinds(settings).values() for kind in kinds]


def worker_spec(settings: Settings, config: WorkerConfig, *, name: str) -> ProcessSpec:
    """How to start a worker; the modules of its tools are found through `settings.import_paths`."""
    paths = [str(path.absolute()) for path in settings.import_paths]
    if "PYTHONPATH" in os.environ:
        paths.append(os.environ["PYTHONPATH"])
    environment = _secrets(settings) | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
    if config.model is not None and config.model.key is not None:
        environment[MODEL_KEY] = config.model.key.get_secret_value()
    if "index" in config.kinds:
        environment[INDEX_DATABASE] = settings.indexes.get_secret_value()
    arguments = ("-m", _WORKER, "--config", config.model_dump_json())
    return ProcessSpec(name, arguments, environment)


def _secrets(settings: Settings) -> dict[str, str]:
    return {} if settings.key is None else {KEY: settings.key}
