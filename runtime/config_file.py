"""Reading `weft.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

__all__ = ["ConfigError", "known", "model_path", "read_file"]


class ConfigError(ValueError):
    """A setting is unknown or cannot be used; the message names where it stands, its key and the remedy."""


def known(name: str, names: Sequence[str]) -> str:
    """What could stand in place of an unknown name."""
    meant = "".join(f"did you mean {close!r}? " for close in get_close_matches(name, names, n=1))
    return f"{meant}known: {', '.join(names)}"


def read_file(file: Path) -> dict[str, Any]:
    """The values of the file, its relative paths resolved against its folder. Raises ConfigError."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{file}: cannot be read: {problem}") from None
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{file}: not TOML: {problem}") from None
    return _relative_to(file.parent, values)


def _relative_to(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a file with their paths resolved against its folder; malformed ones as they are."""
    resolvers: dict[str, Callable[[Any], Any]] = {
        "data": lambda value: _path(folder, value),
        "tls_cert": lambda value: _path(folder, value),
        "tls_key": lambda value: _path(folder, value),
        "tls_ca": lambda value: _path(folder, value),
        "import_paths": lambda value: _each(value, lambda item: _path(folder, item)),
        "programs": lambda value: _each(value, lambda item: _path(folder, item)),
        "embedder": lambda value: model_path(folder, value),
        "reranker": lambda value: model_path(folder, value),
        "models": lambda value: _each(value, lambda item: _with_model_path(folder, item)),
    }
    return {key: resolvers[key](value) if key in resolvers else value for key, value in values.items()}


def _each(values: Any, change: Callable[[Any], Any]) -> Any:
    match values:
        case list():
            return [change(value) for value in values]
        case dict():
            return {key: change(value) for key, value in values.items()}
        case _:
            return values


def _path(folder: Path, value: Any) -> Any:
    return folder / value if isinstance(value, str) else value


def model_path(folder: Path, value: Any) -> Any:
    """A model's folder, relative to `folder`; as it stands if there is none: it may be a name on the hub."""
    if not isinstance(value, str):
        return value
    path = folder / Path(value).expanduser()
    return str(path) if value.startswith((".", "~")) or path.exists() else value


def _with_model_path(folder: Path, model: Any) -> Any:
    if not isinstance(model, dict) or "path" not in model:
        return model
    return {**model, "path": model_path(folder, model["path"])}
