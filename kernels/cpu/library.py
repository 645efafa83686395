"""The C sources of this folder as a library: compiled by this machine's compiler when it is first asked for.

It is compiled for the CPU at hand and kept in the user's cache folder, under a name that says all that it
depends on: sources, options, compiler and CPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from .binding import declare

__all__ = ["BuildError", "build", "cache_folder", "load"]

_log = logging.getLogger(__name__)

_SOURCES: Final = Path(__file__).parent
_COMPILERS: Final = ("cc", "gcc", "clang")
_OPTIONS: Final = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread")
_COMPILE_SECONDS: Final = 120.0  # that a compiler may take
_REMEDY: Final = "install gcc or clang, or name a C compiler in the variable CC"


class BuildError(Exception):
    """The library cannot be had; the message says why, and what would help."""


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, its functions declared; None if there is none, which is logged once, with the remedy."""
    try:
        return _open(build(cache_folder()))
    except BuildError as error:
        _log.info("models run on this CPU by torch's operations alone, which is slower: %s", error)
        return None


def _open(file: Path) -> ctypes.CDLL:
    try:
        return declare(ctypes.CDLL(str(file)))
    except OSError as error:
        raise BuildError(
            f"{str(file)!r} cannot be loaded: {error}; delete it, and it is built anew"
        ) from error


def cache_folder() -> Path:
    """Where the library is kept: `weft` in $XDG_CACHE_HOME, by default ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "weft"


def build(folder: Path) -> Path:
    """The library's file in `folder`, compiled if it is not there. Raises `BuildError`.

    Several processes may build at once: each writes a file of its own and renames it, which is atomic.
    """
    command = [*_compiler(), *_OPTIONS, _tuned_for_this_cpu()]
    file = folder / f"cpu-{_digest(command)}.so"
    if file.is_file():
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            compiled = Path(scratch) / file.name
            _run([*command, "-o", str(compiled), *map(str, _files(".c")), "-lm"])
            compiled.replace(file)
    except OSError as error:
        remedy = "let XDG_CACHE_HOME name a folder that can"
        raise BuildError(f"the folder {str(folder)!r} cannot be written: {error}; {remedy}") from error
    return file


def _compiler() -> list[str]:
    """The command of the C compiler: $CC, or the first of the usual ones that is there."""
    named = os.environ.get("CC")
    if named:
        command = shlex.split(named)
        if command and shutil.which(command[0]):
            return command
        raise BuildError(f"CC names {named!r}, which is no command; {_REMEDY}")
    for name in _COMPILERS:
        if shutil.which(name):
            return [name]
    raise BuildError(f"there is no C compiler; {_REMEDY}")


def _tuned_for_this_cpu() -> str:
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def _digest(command: list[str]) -> str:
    """Of all that the compiled library depends on."""
    digest = hashlib.blake2b(digest_size=12)
    for part in (*command, _run([command[0], "--version"]), platform.platform(), _cpu()):
        digest.update(part.encode() + b"\0")
    for file in (*_files(".c"), *_files(".h")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _cpu() -> str:
    """What the CPU can do, for a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def _files(suffix: str) -> list[Path]:
    return sorted(_SOURCES.glob(f"*{suffix}"))


def _run(command: list[str]) -> str:
    """The output of a compiler's command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        first = (error.stderr.strip() or "no message").splitlines()[0]
        raise BuildError(
            f"{command[0]!r} ended with status {error.returncode}: {first}; {_REMEDY}"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]!r} cannot be used: {error}; {_REMEDY}") from error
    return done.stdout
