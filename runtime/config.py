"""Configuration: what a person sets, and what each process of a server is started with.

`Settings` come from arguments, `WEFT_*` variables, `weft.toml` and defaults; the first to name a key wins.
Processes get theirs as a JSON document, their argument ``--config``: an `OrchestratorConfig`, which holds all
settings, or a `WorkerConfig`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from .addresses import SCHEME, UNIX, Address, HttpAddress, ServerAddress
from .config_file import ConfigError, known, read_file
from .model_settings import ModelSettings
from .scheduler.policies import Policies

__all__ = [
    "CONFIG_FILE",
    "CONFIG_VARIABLE",
    "INDEX_DATABASE",
    "JOURNAL",
    "MODEL_KEY",
    "REFERENCE_MODEL",
    "SERVER_VARIABLE",
    "TLS_CA_VARIABLE",
    "ConfigError",
    "EngineKind",
    "HostedPrograms",
    "LogLevel",
    "ModelSettings",
    "OrchestratorConfig",
    "Settings",
    "WorkerConfig",
    "client_settings",
    "load_settings",
]

CONFIG_FILE: Final = "weft.toml"
"""The file that is read when it stands in the working folder and no other is named."""
CONFIG_VARIABLE: Final = "WEFT_CONFIG"
"""The variable that names another file."""
INDEX_DATABASE: Final = "WEFT_INDEXES"
"""The variable by which a worker process gets `indexes`, which may hold a password."""
JOURNAL: Final = "WEFT_JOURNAL"
"""The variable by which the orchestrator process gets `journal`, which may hold a password."""
MODEL_KEY: Final = "WEFT_MODEL_KEY"
"""The variable by which a worker process gets the key of the server that runs its model."""
SERVER_VARIABLE: Final = "WEFT_SERVER"
"""The variable that names the server that clients use."""
TLS_CA_VARIABLE: Final = "WEFT_TLS_CA"
"""The variable that says by whose certificate clients know it."""
REFERENCE_MODEL: Final = Path(__file__).parent.parent / "apps" / "reference_model" / "model"
"""The folder of the small model that comes with weft."""

_PREFIX: Final = "WEFT_"
_HOST: Final = r"(\[[^]@/]*\]|[^:/?#@\[\],]*)(:\d+)?"
_POSTGRES: Final = re.compile(rf"postgres(ql)?://([^/?#@\[\]]*@)?{_HOST}(,{_HOST})*([/?][^#@]*)?")

EngineKind = Literal["llm", "embed", "index", "rerank", "tool"]
LogLevel = Literal["debug", "info", "warning", "error"]


def _entry_point(text: str) -> str:
    """Refuse what is not `module:function`."""
    module, _, function = text.partition(":")
    if all(part.isidentifier() for part in (*module.split("."), function)):
        return text
    raise ValueError(f"a tool is named 'module:function', not {text!r}")


def _postgres_url(url: SecretStr) -> SecretStr:
    """Refuse what is neither empty nor the URL of a PostgreSQL database, without showing it.

    Of a password with special characters libpq would take a part for the host, and show it in errors.
    """
    if url and not _POSTGRES.fullmatch(url.get_secret_value()):
        raise ValueError(
            "a database is 'postgresql://USER@HOST:PORT/DATABASE', with special characters as '%40', or empty"
        )
    return url


EntryPoint = Annotated[str, AfterValidator(_entry_point)]
"""A Python function: `module:function`."""
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
"""A PostgreSQL database: `postgresql://USER@HOST/DATABASE`; empty: none."""

_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


def _reference() -> list[ModelSettings]:
    return [ModelSettings(name="reference", path=str(REFERENCE_MODEL))]


class Settings(BaseSettings):
    """All settings, for servers and for clients. `load_settings` reads them from everywhere."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        allow_inf_nan=False,
        frozen=True,
        validate_default=True,
    )

    listen: Address = "127.0.0.1:7420"
    """Where `weft serve` listens."""
    server: ServerAddress | None = None
    """The server that clients use; without one they start an embedded runtime."""
    data: Path = Path(".weft")
    """The folder of everything that stays, as far as no database has it."""
    indexes: PostgresUrl = Field(default=SecretStr(""), exclude=True)
    """The PostgreSQL database that has the indexes, for workers on any machine; by default they are files in
    `data`."""
    http: HttpAddress | None = None
    """Where `weft serve` speaks HTTP as OpenAI's servers do; by default nowhere."""
    metrics: HttpAddress | None = None
    """Where `weft serve` answers Prometheus, at /metrics; by default where it speaks `http`, if it does."""
    traces: str | None = Field(default=None, pattern="^https?://")
    """The OpenTelemetry collector that gets a trace of each run, by OTLP over HTTP: `http://HOST:4318`; by
    default the one that OTEL_EXPORTER_OTLP_ENDPOINT names, if it is set."""
    api_key: SecretStr | None = Field(default=None, min_length=1, exclude=True)
    """What clients and workers must send as their key; without one everybody is served."""
    tls_cert: Path | None = None
    """A file with the certificate, and its chain, of what listens here on TCP, which speaks TLS then."""
    tls_key: Path | None = None
    """The file with its private key."""
    tls_ca: Path | None = None
    """A file with the certificates of those who may vouch for servers and workers that are called by TLS; by
    default the public CAs."""
    models: list[ModelSettings] = Field(default_factory=_reference)
    """The language models; the first is the default."""
    embedder: str | None = None
    """A folder with a sentence-transformers model; by default the built-in embedder."""
    reranker: str | None = None
    """A folder with a cross-encoder; by default the default language model scores passages."""
    tools: list[EntryPoint] = Field(default_factory=list)
    """Functions that the server's workers run: `module:function`."""
    import_paths: list[Path] = Field(default_factory=list)
    """Folders where modules of tools and programs are looked for first, before installed packages."""
    programs: dict[str, Path] = Field(default_factory=dict)
    """Workflow graphs (JSON files) and Python programs (`file.py:function`) that clients may run by name."""
    passes_off: list[str] = Field(default_factory=list)
    """Optimizer passes that are switched off."""
    result_cache_mb: int = Field(default=64, ge=0)
    """MiB for results of deterministic work that is not done again; the indexes have as much. 0: none."""
    journal_mb: int = Field(default=256, ge=0)
    """MiB for the journal of runs that outlive their clients, so that they outlive the server; 0: none."""
    journal: PostgresUrl = Field(default=SecretStr(""), exclude=True)
    """The PostgreSQL database that holds that journal; by default it is a file in `data`."""
    profile_s: float = Field(default=1.0, ge=0)
    """Seconds that a worker spends on measuring each model's speed at its start; 0: it does not."""
    scheduler: Policies = Field(default_factory=Policies)
    """The scheduler's policies: docs/scheduling.md."""
    max_message_mb: int = Field(default=16, gt=0, le=1024)
    """The largest message that clients may send, and that a result or a task's operands may fill, in MiB."""
    log_level: LogLevel = "warning"
    """The least that the processes log."""

    @property
    def key(self) -> str | None:
        """The `api_key`, to be shown to nobody."""
        return None if self.api_key is None else self.api_key.get_secret_value()

    @property
    def called(self) -> str:
        """How clients on this machine call a server with these settings."""
        return SCHEME + self.listen if self.tls_cert and not self.listen.startswith(UNIX) else self.listen

    def absolute(self) -> Self:
        """The same settings for a process with another working folder."""
        paths = {
            "data": self.data.absolute(),
            **_absolute(self, "tls_cert", "tls_key", "tls_ca"),
            "import_paths": [path.absolute() for path in self.import_paths],
            "programs": {name: path.absolute() for name, path in self.programs.items()},
        }
        return self.model_copy(update=paths)

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        text = "" if key is None else key.get_secret_value()
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError("a key is made of printable ASCII characters without spaces")
        return key

    @field_validator("scheduler", mode="before")
    @classmethod
    def _check_scheduler(cls, chosen: Any) -> Any:
        policies = [policy.name for policy in fields(Policies)]
        for name in chosen if isinstance(chosen, dict) else ():
            if name not in policies:
                raise ValueError(f"unknown key {name!r}; {known(name, policies)}")
        return chosen

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        _expect_both(self.tls_cert, self.tls_key)
        return self

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two models are called {name!r}: give each a name of its own")
            if name in self.programs:
                raise ValueError(f"a model and a program are called {name!r}: give each a name of its own")
        return self


class OrchestratorConfig(Settings):
    """What an orchestrator process is started with: the settings, and what follows from them."""

    inside: Address | None = None
    """Where the processes of its own server reach it, besides where it listens to everybody."""
    hosting: bool = False
    """Whether a tool worker runs some of the programs."""


class HostedPrograms(BaseModel):
    """Python programs that a tool worker runs."""

    model_config = _STRICT

    loader: EntryPoint
    """The function that makes a tool of one, given its name and its source."""
    sources: dict[str, str]
    """By name."""


class WorkerConfig(BaseModel):
    """What a worker process is started with."""

    model_config = _STRICT

    kinds: tuple[EngineKind, ...] = Field(min_length=1)
    """The engines that it runs."""
    orchestrator: ServerAddress
    """What it joins."""
    listen: Address = "127.0.0.1:0"
    """Where its gRPC server listens; port 0 takes any free one."""
    advertise: ServerAddress | None = None
    """The address by which the orchestrator reaches it, if not the one where it listens."""
    tls_cert: Path | None = None
    """Its certificate, if it is to speak TLS where it listens on TCP."""
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """By what it knows the orchestrator and other workers."""
    worker_id: str = ""
    """Empty: made up at the start."""
    data: Path = Path(".weft")
    """The folder of the indexes, unless a database has them."""
    model: ModelSettings | None = None
    """The model of the `llm` engine."""
    embedder: str | None = None
    reranker: str | None = None
    tools: list[EntryPoint] = Field(default_factory=list)
    programs: HostedPrograms | None = None
    profile_s: float = Field(default=1.0, ge=0)
    result_cache_mb: int = Field(default=64, ge=0)
    log_level: LogLevel = "warning"

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        _expect_both(self.tls_cert, self.tls_key)
        return self

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if "llm" in self.kinds and self.model is None:
            raise ValueError("a worker of kind 'llm' needs a model")
        return self

    @classmethod
    def of(cls, settings: Settings, kinds: tuple[EngineKind, ...], **own: Any) -> Self:
        """The part of `settings` that a worker with these engines needs, and its `own` fields.

        Raises ConfigError.
        """
        shared = ("embedder", "reranker", "tools", "profile_s", "result_cache_mb", "log_level")
        values = {key: getattr(settings, key) for key in shared} | _absolute(settings, "tls_ca")
        try:
            return cls(kinds=kinds, data=settings.data.absolute(), **values, **own)
        except ValidationError as problem:
            raise ConfigError(_explain(problem, {"arguments": own})) from None


def _absolute(settings: Settings, *names: str) -> dict[str, Path]:
    """Those of these files that are named, for a process with another working folder."""
    files = {name: getattr(settings, name) for name in names}
    return {name: file.absolute() for name, file in files.items() if file is not None}


def _expect_both(cert: Path | None, key: Path | None) -> None:
    if (cert is None) is not (key is None):
        missing = "tls_cert" if cert is None else "tls_key"
        raise ValueError(f"tls_cert and tls_key belong together, and {missing} is not set")


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Settings from arguments (those that are not None), variables, the configuration file, and defaults.

    The file is `path`, or what ``WEFT_CONFIG`` names, or ``weft.toml`` in the working folder if it is there.
    Relative paths in it are relative to the file. Raises ConfigError.
    """
    return _settings_from(_sources(path, overrides))


def client_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """As `load_settings`, for who calls a server: a key is sent to no server but the one that it is for.

    A file's `api_key` is for the `server` that the file names, and for any if it names none.
    """
    sources = _sources(path, overrides)
    arguments, environment, file = sources.values()
    called = arguments.get("server", environment.get("server"))
    if called is not None and file.get("server") not in (None, called):
        file.pop("api_key", None)
    return _settings_from(sources)


def _sources(path: Path | None, overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is set where, the first to count first: arguments, variables, the file."""
    file = _find_file(path)
    return {
        "arguments": {key: value for key, value in overrides.items() if value is not None},
        "environment": _read_environment(),
        str(file): read_file(file) if file else {},
    }


def _settings_from(sources: Mapping[str, Mapping[str, Any]]) -> Settings:
    merged: dict[str, Any] = {}
    for source, values in sources.items():
        for key in values:
            if key not in Settings.model_fields:  # pydantic's settings would take any case
                names = [*Settings.model_fields]
                raise ConfigError(f"{source}: unknown key {key!r}; {known(key.lower(), names)}")
    for values in reversed(list(sources.values())):
        for key, value in values.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = {**merged[key], **value} if both else value
    try:
        return Settings.model_validate(merged)
    except ValidationError as problem:
        raise ConfigError(_explain(problem, sources)) from None


def _find_file(path: Path | None) -> Path | None:
    named = path or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named is None:
        return Path(CONFIG_FILE) if Path(CONFIG_FILE).is_file() else None
    if not named.is_file():
        by = "" if path else f" (named by {CONFIG_VARIABLE})"
        raise ConfigError(f"configuration file {str(named)!r}{by} does not exist")
    return named


def _read_environment() -> dict[str, Any]:
    for variable in sorted(os.environ):
        if variable.startswith(_PREFIX) and variable != CONFIG_VARIABLE:
            key = variable.removeprefix(_PREFIX).lower().partition("__")[0]
            if key not in Settings.model_fields:
                names = [CONFIG_VARIABLE, *(f"{_PREFIX}{name.upper()}" for name in Settings.model_fields)]
                raise ConfigError(f"environment: unknown variable {variable!r}; {known(variable, names)}")
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as problem:
        raise ConfigError(f"environment: {problem}; lists and tables are written as JSON") from None


def _explain(problem: ValidationError, sources: Mapping[str, Mapping[str, Any]]) -> str:
    """One line: where, which key, what is wrong."""
    error = problem.errors()[0]
    path = [str(step) for step in error["loc"]]
    if not path:
        return f"configuration: {error['msg'].removeprefix('Value error, ')}"
    source = next((name for name, values in sources.items() if path[0] in values), "defaults")
    where = f"{source}: {'.'.join(path)}"
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown key {'.'.join(path)!r}; {known(path[-1], [*ModelSettings.model_fields])}"
    if path == ["models"] and error["type"] == "list_type":
        return f"{where}: {error['msg']}: a table [[models]] for each model"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
