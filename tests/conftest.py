"""Keeps the checkout off `sys.path`: its folders `kernels` and `proto` have the names of other packages.

Without a GPU Triton's kernels run in its interpreter, which must be chosen before Triton is imported.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .postgres import Postgres, running_postgres

importlib.import_module("weft")  # found before the path shrinks, so that an uninstalled checkout works too
_ROOT = str(Path(__file__).resolve().parents[1])
sys.path[:] = [entry for entry in sys.path if entry not in ("", _ROOT)]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell; the processes that tests start and interrupt would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():
    if "triton" in sys.modules:
        raise RuntimeError("Triton was imported before its interpreter could be chosen")
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL; who takes it makes a database of its own, and starts it again if it ends it."""
    with running_postgres() as running:
        yield running
