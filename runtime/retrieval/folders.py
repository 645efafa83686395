"""Documents from the files of a folder."""

from __future__ import annotations

from pathlib import Path

from .documents import Document
from .errors import CorpusError
from .formats import FORMATS, text_of

__all__ = ["files_of", "read_file", "read_folder"]


def read_folder(path: str | Path) -> list[Document]:
    """The documents of all files that `files_of` finds. Raises `CorpusError` if one cannot be read."""
    return [read_file(name, file) for name, file in files_of(path).items()]


def files_of(path: str | Path) -> dict[str, Path]:
    """The files under `path` of the formats that can be read, by the ids of their documents, sorted.

    The id is the path relative to the folder, with `/`. Hidden files and folders (a leading dot) are left
    out. Raises `CorpusError` for a folder that is missing or without such files.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise CorpusError(f"folder {str(folder)!r} {what}")
    files = {name: file for file in folder.rglob("*") if (name := _id(folder, file)) is not None}
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


def _id(folder: Path, file: Path) -> str | None:
    """The id of the document in `file`, or None if it holds none."""
    relative = file.relative_to(folder)
    hidden = any(part.startswith(".") for part in relative.parts)
    if hidden or file.suffix.lower() not in FORMATS or not file.is_file():
        return None
    return relative.as_posix()
