"""Documents from the files of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .documents import Document
from .errors import CorpusError
from .formats import FORMATS, text_of

__all__ = ["files_of", "read_file", "read_folder"]


def read_folder(path: str | Path) -> list[Document]:
    """The documents of all files that `files_of` finds. Raises `CorpusError` if one cannot be read."""
    return [read_file(name, file) for name, file in files_of(path).items()]


def files_of(path: str | Path, skip: Callable[[str, CorpusError], object] | None = None) -> dict[str, Path]:
    """The files under `path` of the formats that can be read, by the ids of their documents, sorted.

    The id is the path relative to the folder, with `/`. Hidden files and folders (a leading dot) are left
    out; links to folders are not followed. Raises `CorpusError` for a folder that is missing or without such
    files, and for one in it that cannot be read unless `skip` takes it.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise CorpusError(f"folder {str(folder)!r} {what}")
    files: dict[str, Path] = {}
    unread = [folder]
    while unread:
        inner = unread.pop()
        try:
            folders, texts = _contents(inner)
        except OSError as error:
            name = _id(folder, inner)
            problem = CorpusError(f"folder {name!r} cannot be read: {error.strerror or error}")
            if skip is None:
                raise problem from error
            skip(name, problem)
        else:
            unread += folders
            files.update((_id(folder, text), text) for text in texts)
    if not files:
        raise CorpusError(f"folder {str(folder)!r} holds no {', '.join(FORMATS)} file")
    return {name: files[name] for name in sorted(files)}


def read_file(name: str, file: Path) -> Document:
    """The document `name`, which is its source, too. Raises `CorpusError` if the file cannot be read."""
    try:
        name.encode()
        content = file.read_bytes()
    except OSError as error:
        raise CorpusError(f"file {name!r} cannot be read: {error.strerror or error}") from error
    except UnicodeEncodeError:
        raise CorpusError(f"file {name!r} has a name that is not UTF-8; rename it") from None
    return Document(name, text_of(name, content), source=name)


def _contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the readable files in a folder, but for hidden ones."""
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not entry.name.startswith(".")]
    folders = [folder / entry.name for entry in seen if entry.is_dir(follow_symlinks=False)]
    texts = [entry for entry in seen if os.path.splitext(entry.name)[1].lower() in FORMATS]
    return folders, [folder / entry.name for entry in texts if os.path.isfile(entry)]


def _id(folder: Path, inner: Path) -> str:
    return inner.relative_to(folder).as_posix()
