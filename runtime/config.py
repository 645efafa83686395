"""Configuration: what a person sets, and what each process of a server is started with.

`Settings` come from arguments, `WEFT_*` variables, `weft.toml` and defaults; the first to name a key wins.
Processes get theirs as a JSON document, their argument ``--config``: the orchestrator all settings, a worker
its `WorkerConfig`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

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

from .config_file import ConfigError, read_file
from .scheduler.policies import Policies

__all__ = [
    "CONFIG_FILE",
    "CONFIG_VARIABLE",
    "INDEX_DATABASE",
    "JOURNAL",
    "MODEL_KEY",
    "REFERENCE_MODEL",
    "ConfigError",
    "DialectName",
    "EngineKind",
    "LogLevel",
    "ModelSettings",
    "Settings",
    "WorkerConfig",
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
REFERENCE_MODEL: Final = Path(__file__).parent.parent / "apps" / "reference_model" / "model"
"""The folder of the small model that comes with weft."""

_PREFIX: Final = "WEFT_"
_UNIX: Final = "unix:"
_HOST: Final = r"(\[[^]@/]*\]|[^:/?#@\[\],]*)(:\d+)?"
_POSTGRES: Final = re.compile(rf"postgres(ql)?://([^/?#@\[\]]*@)?{_HOST}(,{_HOST})*([/?][^#@]*)?")

DialectName = Literal["auto", "llamacpp", "openai", "sglang", "vllm", "weft"]
EngineKind = Literal["llm", "embed", "index", "rerank", "tool"]
LogLevel = Literal["debug", "info", "warning", "error"]


def _address(text: str) -> str:
    """Refuse what is neither `host:port` nor `unix:path`."""
    if _is_tcp(text) or (text.startswith(_UNIX) and len(text) > len(_UNIX)):
        return text
    raise ValueError(f"an address is 'HOST:PORT' or 'unix:PATH', not {text!r}")


def _is_tcp(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and not text.startswith(_UNIX) and port.isdecimal() and int(port) < 1 << 16


def _tcp_address(text: str) -> str:
    """Refuse what is not `host:port`."""
    if _is_tcp(text):
        return text
    raise ValueError(f"an HTTP address is 'HOST:PORT', not {text!r}")


def _entry_point(text: str) -> str:
    """Refuse what is not `module:function`."""
    module, _, function = text.partition(":")
    if all(part.isidentifier() for part in (*module.split("."), function)):
        return text
    raise ValueError(f"a tool is named 'module:function', not {text!r}")


def _url(text: str) -> str:
    """Refuse what is no URL of a server, or holds a password."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"the URL of a server is 'http://HOST:PORT/v1', not {text!r}")
    if parts.username is not None:
        raise ValueError("a password does not belong in a URL, which is shown: pass it as 'key'")
    return text.rstrip("/")


def _postgres_url(url: SecretStr) -> SecretStr:
    """Refuse what is neither empty nor the URL of a PostgreSQL database, without showing it.

    Of a password with special characters libpq would take a part for the host, and show it in errors.
    """
    if url and not _POSTGRES.fullmatch(url.get_secret_value()):
        raise ValueError(
            "a database is 'postgresql://USER@HOST:PORT/DATABASE', with special characters as '%40', or empty"
        )
    return url


Address = Annotated[str, AfterValidator(_address)]
"""Where a server listens: `HOST:PORT` or `unix:PATH`."""
HttpAddress = Annotated[str, AfterValidator(_tcp_address)]
"""Where an HTTP server listens: `HOST:PORT`."""
EntryPoint = Annotated[str, AfterValidator(_entry_point)]
"""A Python function: `module:function`."""
Url = Annotated[str, AfterValidator(_url)]
"""Where an OpenAI-compatible server answers: `http://HOST:PORT/v1`."""
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
"""A PostgreSQL database: `postgresql://USER@HOST/DATABASE`; empty: none."""

_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


_SERVED: Final = frozenset({"context_length", "dialect", "key", "served_as", "wait_s"})
"""What is said of models that another server runs; and of those that a worker runs:"""
_OWN: Final = frozenset(
    {
        "code",
        "device",
        "dtype",
        "host_kv_tokens",
        "kv_tokens",
        "native",
        "prompt_lookup",
        "quantization",
        "tensor_parallel",
        "threads",
        "token_budget",
        "workers",
    }
)


class ModelSettings(BaseModel):
    """A language model, and how a worker runs it."""

    model_config = _STRICT

    name: str = ""
    """How programs name it; by default the last part of `path`."""
    path: str
    """A folder with a Hugging Face checkpoint, or the name of one on the hub. With `url`, only its tokenizer,
    chat template and configuration are read."""
    url: Url | None = None
    """An OpenAI-compatible server that runs the model in a worker's stead: docs/upstream.md."""
    served_as: str = ""
    """How that server names the model; by default `name` if it has one of that name, or its only one."""
    key: SecretStr | None = Field(default=None, min_length=1, exclude=True)
    """The key that it wants; a worker process gets it as a variable."""
    dialect: DialectName = "auto"
    """What it understands besides OpenAI's API; auto goes by what it says of its models."""
    context_length: int | None = Field(default=None, gt=0)
    """The longest text that it takes, in tokens; by default what it says itself, or the configuration."""
    wait_s: float = Field(default=30.0, ge=0)
    """How long a worker that starts waits for it to answer."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes a GPU if there is one, and of several workers each another one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and computation; auto takes the checkpoint's on a GPU; on a CPU float32, or bfloat16 if the
    checkpoint has it, is not small, and the CPU, as measured at the start, computes it faster."""
    quantization: Literal["auto", "none", "fp8"] = "auto"
    """Of the layers' matrices, by weft's code on a GPU: fp8 keeps and multiplies them in 8 bits, in half the
    memory; auto does so where the checkpoint is in fp8 and the GPU has units for it."""
    code: Literal["auto", "weft", "transformers"] = "auto"
    """Whose code computes the model: weft's, which knows the families Llama, Mistral, Qwen2 and Qwen3, or
    that of transformers, more slowly; auto takes weft's where it can."""
    kv_tokens: int | None = Field(default=None, gt=0)
    """Tokens whose keys and values the worker keeps; by default as many as memory allows."""
    host_kv_tokens: int | None = Field(default=None, ge=0)
    """Tokens whose keys and values stay in the host's memory, pinned, when the GPU has no room for them, to
    be copied back when they are asked for; by default as many as the GPU has room for, but no more than an
    eighth of the machine's memory for all its GPUs; on a CPU none. 0: none."""
    token_budget: int | None = Field(default=None, gt=0)
    """Tokens that one step computes at most; by default 512 on a CPU, 2048 on a GPU."""
    max_running: int | None = Field(default=None, gt=0)
    """Requests that one step serves at most; by default 64 on a CPU, 256 on a GPU. With `url`, those that are
    sent at a time, 64 by default."""
    tensor_parallel: int = Field(default=1, gt=0)
    """Processes that share the model of one worker, each with some of its heads, on the GPUs from `device`
    on; it must divide the model's heads, KV heads and inner width. No KV goes to the host or to other workers
    then. On a CPU it works, too, slowly: for trying it out."""
    native: bool = True
    """In float32 on a CPU, compute in C that this machine's compiler has compiled for it, if it has one."""
    prompt_lookup: bool = True
    """Compute in one step several tokens that the context lets expect, as answers copy from it; texts stay
    the same, in fewer steps."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; by default torch decides."""
    workers: int = Field(default=1, gt=0)
    """Worker processes that a server starts for the model."""

    @model_validator(mode="before")
    @classmethod
    def _name_after_path(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("path"), str) and not data.get("name"):
            return {**data, "name": Path(data["path"]).name}
        return data

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        """Refuse what is nothing to a model that another server runs, or to one that a worker runs."""
        fields, idle = type(self).model_fields, _OWN if self.url else _SERVED
        for name in sorted(idle):
            if getattr(self, name) != fields[name].default:
                wrong = "is the other server's business" if self.url else "goes with 'url' only"
                raise ValueError(f"{name!r} {wrong}: leave it out of the table of model {self.name!r}")
        return self


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
    server: Address | None = None
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
    api_key: SecretStr | None = Field(default=None, min_length=1)
    """What clients and workers must send as their key; without one everybody is served."""
    models: list[ModelSettings] = Field(default_factory=_reference)
    """The language models; the first is the default."""
    embedder: str | None = None
    """A folder with a sentence-transformers model; by default the built-in embedder."""
    reranker: str | None = None
    """A folder with a cross-encoder; by default the default language model scores passages."""
    tools: list[EntryPoint] = Field(default_factory=list)
    """Functions that the server's workers run: `module:function`."""
    import_paths: list[Path] = Field(default_factory=list)
    """Folders where the tools' modules are looked for, before installed packages and the working folder."""
    programs: dict[str, Path] = Field(default_factory=dict)
    """Workflow graphs (JSON files) that clients may run by name."""
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

    def absolute(self) -> Self:
        """The same settings for a process with another working folder."""
        paths = {
            "data": self.data.absolute(),
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
        known = [policy.name for policy in fields(Policies)]
        for name in chosen if isinstance(chosen, dict) else ():
            if name not in known:
                raise ValueError(f"unknown key {name!r}; known: {', '.join(known)}")
        return chosen

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two models are called {name!r}: give each a name of its own")
            if name in self.programs:
                raise ValueError(f"a model and a program are called {name!r}: give each a name of its own")
        return self


class WorkerConfig(BaseModel):
    """What a worker process is started with."""

    model_config = _STRICT

    kinds: tuple[EngineKind, ...] = Field(min_length=1)
    """The engines that it runs."""
    orchestrator: Address
    """What it joins."""
    listen: Address = "127.0.0.1:0"
    """Where its gRPC server listens; port 0 takes any free one."""
    advertise: Address | None = None
    """The address by which the orchestrator reaches it, if not the one where it listens."""
    worker_id: str = ""
    """Empty: made up at the start."""
    data: Path = Path(".weft")
    """The folder of the indexes, unless a database has them."""
    model: ModelSettings | None = None
    """The model of the `llm` engine."""
    embedder: str | None = None
    reranker: str | None = None
    tools: list[EntryPoint] = Field(default_factory=list)
    profile_s: float = Field(default=1.0, ge=0)
    result_cache_mb: int = Field(default=64, ge=0)
    log_level: LogLevel = "warning"

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
        values = {key: getattr(settings, key) for key in shared}
        try:
            return cls(kinds=kinds, data=settings.data.absolute(), **values, **own)
        except ValidationError as problem:
            raise ConfigError(_explain(problem, {"arguments": own})) from None


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Settings from arguments (those that are not None), variables, the configuration file, and defaults.

    The file is `path`, or what ``WEFT_CONFIG`` names, or ``weft.toml`` in the working folder if it is there.
    Relative paths in it are relative to the file. Raises ConfigError.
    """
    file = _find_file(path)
    sources: dict[str, Mapping[str, Any]] = {
        "arguments": {key: value for key, value in overrides.items() if value is not None},
        "environment": _read_environment(),
        str(file): read_file(file) if file else {},
    }
    merged: dict[str, Any] = {}
    for values in reversed(sources.values()):
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
                raise ConfigError(f"environment: unknown variable {variable!r}; known: {_variables()}")
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as problem:
        raise ConfigError(f"environment: {problem}; lists and tables are written as JSON") from None


def _variables() -> str:
    return ", ".join([CONFIG_VARIABLE, *(f"{_PREFIX}{key.upper()}" for key in Settings.model_fields)])


def _explain(problem: ValidationError, sources: Mapping[str, Mapping[str, Any]]) -> str:
    """One line: where, which key, what is wrong."""
    error = problem.errors()[0]
    path = [str(step) for step in error["loc"]]
    if not path:
        return f"configuration: {error['msg'].removeprefix('Value error, ')}"
    source = next((name for name, values in sources.items() if path[0] in values), "defaults")
    where = f"{source}: {'.'.join(path)}"
    if error["type"] == "extra_forbidden":
        known = ModelSettings.model_fields if path[0] == "models" else Settings.model_fields
        return f"{source}: unknown key {'.'.join(path)!r}; known: {', '.join(known)}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
