"""Where the files of a model lie: in a folder, or in the cache of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from .errors import ModelError

__all__ = ["resolve_folder"]

_HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
_TEXT_FILES: Final = ("*.json", "*.jinja", "tokenizer.model")
_WEIGHTS: Final = ("*.safetensors",)


def resolve_folder(model: str | Path, *, weights: bool = True) -> Path:
    """The folder of `model`: an existing folder, or a hub name `org/name`, downloaded if it is not cached.

    Without `weights`, only what tells the tokenizer, the chat template and the configuration is downloaded.
    Raises `ModelError` if there is neither such a folder nor such a download.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    name = str(model)
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"model folder {name!r} does not exist, and it is no hub name of the form 'org/name'"
        )
    return _download(name, [*_TEXT_FILES, *(_WEIGHTS if weights else ())])


def _download(name: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download  # imported here: slow, and needed for hub names only

    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except Exception as error:  # the hub client raises errors of several libraries
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{name!r} is no local folder and cannot be downloaded from the Hugging Face hub: {cause}"
        ) from error
