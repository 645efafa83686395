"""The graphs of `noop` in other frameworks, each as its own documentation writes such graphs.

Every module has a function `arm` and needs its framework to be imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from ..noop import Arm

__all__ = ["FRAMEWORKS", "arm", "installed"]

FRAMEWORKS: Final[Mapping[str, str]] = {
    "langgraph": "langgraph_graphs",
    "llama-index-workflows": "llama_index_workflows",
    "haystack-ai": "haystack_pipelines",
}
"""Packages, and the modules here that use them."""


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def arm(package: str) -> Arm:
    """The graphs in the framework of that package, which must be installed."""
    made: Arm = import_module(f".{FRAMEWORKS[package]}", __name__).arm()
    return made
