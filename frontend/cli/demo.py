"""`weft demo`."""

from __future__ import annotations

import importlib

import typer

from weft.runtime.config import load_settings

from .output import OUTPUT
from .server import ConfigOption

__all__ = ["command"]


def command(config: ConfigOption = None) -> None:
    """Index the demo corpus and ask the bundled apps some questions."""
    demo = importlib.import_module("weft.apps.demo")  # by name: apps stand above the command
    raise typer.Exit(demo.main(OUTPUT, load_settings(config)))
