"""Loading models of sentence-transformers, an optional dependency (`weft[models]`)."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from .errors import ModelError

__all__ = ["load_model", "model_folder"]


def model_folder(path: str | Path) -> Path:
    """`path` as an absolute folder that exists; `ModelError` otherwise."""
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise ModelError(f"model folder {str(path)!r} does not exist")
    return folder


def load_model(kind: Literal["SentenceTransformer", "CrossEncoder"], folder: Path, device: str) -> Any:
    """The sentence-transformers model of class `kind` in `folder`, on `device`; never from the network.

    `ModelError` if the package is missing (it names the extra to install) or the folder holds no such model.
    """
    with _quiet():
        try:
            package = importlib.import_module("sentence_transformers")
        except ImportError as error:
            raise ModelError(
                f"model {str(folder)!r} needs sentence-transformers ({error}); pip install 'weft[models]'"
            ) from error
        try:
            return getattr(package, kind)(str(folder), device=device, local_files_only=True)
        except Exception as error:  # the library raises whatever its parts do; the cause is chained
            raise ModelError(f"model folder {str(folder)!r} holds no usable {kind}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep deprecation warnings and progress bars of the libraries from the user's terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            logging: Any = importlib.import_module("transformers.utils.logging")
        except ImportError:  # without it there is nothing to quiet
            yield
            return
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                logging.enable_progress_bar()
