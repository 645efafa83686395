"""Documents from a folder of text files."""

from __future__ import annotations

from pathlib import Path

from .documents import Document
from .errors import CorpusError

__all__ = ["SUFFIXES", "read_folder"]

SUFFIXES = (".md", ".txt")


def read_folder(path: str | Path) -> list[Document]:
    """Every `.md` and `.txt` file under `path`, sorted by id: its path relative to the folder, with `/`.

    `id` and `source` are that path. Hidden files and folders (a leading dot) are left out. Raises
    `CorpusError` for a folder that is missing or without such files, and for a file that is not UTF-8.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise CorpusError(f"folder {str(folder)!r} {what}")
    files = {name: file for file in folder.rglob("*") if (name := _id(folder, file)) is not None}
    if not files:
        raise CorpusError(f"folder {str(folder)!r} holds no {' or '.join(SUFFIXES)} file")
    return [Document(name, _read(files[name]), source=name) for name in sorted(files)]


def _id(folder: Path, file: Path) -> str | None:
    """The document id of `file`, or None if it is not a document."""
    relative = file.relative_to(folder)
    hidden = any(part.startswith(".") for part in relative.parts)
    if hidden or file.suffix.lower() not in SUFFIXES or not file.is_file():
        return None
    return relative.as_posix()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # a byte order mark is not text
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"file {str(file)!r} is not UTF-8 (byte {error.start}: {error.reason}); convert or remove it"
        ) from error
    except OSError as error:
        raise CorpusError(f"file {str(file)!r} cannot be read: {error.strerror or error}") from error
