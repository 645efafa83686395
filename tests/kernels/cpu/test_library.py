"""How the C sources become a library."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.kernels.cpu import library
from weft.kernels.cpu.library import BuildError, build, cache_folder, load

needs_a_compiler = pytest.mark.skipif(  # a machine may have none: torch computes there
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler"
)
PANEL = (
    "import sys, ctypes; from pathlib import Path; from weft.kernels.cpu.library import build;"
    " print(ctypes.CDLL(str(build(Path(sys.argv[1])))).weft_panel())"
)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache; what `load` has found is forgotten before and after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load.cache_clear()
    yield tmp_path / "weft"
    load.cache_clear()


def compiler(folder: Path, body: str) -> str:
    """A command that acts as a compiler."""
    script = folder / "compiler"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return str(script)


@needs_a_compiler
def test_it_is_built_once(fresh: Path) -> None:
    found = load()
    assert found is not None
    assert found.weft_panel() in (16, 32, 64)
    (file,) = fresh.iterdir()
    written = file.stat().st_mtime_ns
    assert build(fresh) == file
    assert file.stat().st_mtime_ns == written


@needs_a_compiler
def test_several_processes_may_build_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", PANEL, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=200)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(printed) == 1
    assert len(list(tmp_path.iterdir())) == 1


@needs_a_compiler
def test_other_sources_are_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(Path(library.__file__).parent, sources, ignore=shutil.ignore_patterns("*.py*"))
    monkeypatch.setattr(library, "_SOURCES", sources)
    first = build(tmp_path)
    with (sources / "vector.h").open("a") as header:
        header.write("/* changed */\n")
    assert build(tmp_path) != first


def test_without_a_compiler_there_is_none_and_the_log_says_what_helps(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    with caplog.at_level(logging.INFO, logger=library.__name__):
        assert load() is None
        assert load() is None
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "there is no C compiler; install gcc or clang" in record.getMessage()
    assert not fresh.exists()


def test_the_compiler_that_is_named_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m32")
    with pytest.raises(BuildError, match=r"CC names 'no-such-compiler -m32', which is no command; install"):
        build(tmp_path)


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = 'case "$*" in *--version) echo 1;; *) echo "no -std=gnu11 here" >&2; exit 3;; esac'
    monkeypatch.setenv("CC", compiler(tmp_path, fails))
    with pytest.raises(BuildError, match="ended with status 3: no -std=gnu11 here; install"):
        build(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_what_was_compiled_must_be_a_library(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    writes_nonsense = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo x > "$2"; shift; done; echo 1'
    monkeypatch.setenv("CC", compiler(tmp_path, writes_nonsense))
    with caplog.at_level(logging.INFO, logger=library.__name__):
        assert load() is None
    assert "cannot be loaded" in caplog.text
    assert "delete it" in caplog.text


@needs_a_compiler
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"cannot be written: .* let XDG_CACHE_HOME name"):
        build(tmp_path / "file" / "weft")


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/weft")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path(os.environ["HOME"]) / ".cache" / "weft"
