"""SGLang's frontend without SGLang, whose package imports the whole server."""

from __future__ import annotations

import sys
import types
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

__all__ = ["Frontend", "load"]


class Frontend(NamedTuple):
    """Modules of `sglang.lang`; they have no types."""

    api: Any
    chat_template: Any
    choices: Any
    base_backend: Any
    runtime_endpoint: Any


def load() -> Frontend:
    """The frontend. Raises ModuleNotFoundError if it is not installed."""
    if "sglang" not in sys.modules:
        spec = find_spec("sglang")
        if spec is None:
            raise ModuleNotFoundError("SGLang's frontend is not installed here", name="sglang")
        package = types.ModuleType("sglang")
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules["sglang"] = package
    if find_spec("IPython") is None:  # with which its utilities show things in notebooks
        notebook: Any = types.ModuleType("IPython.display")
        notebook.HTML = notebook.display = None
        sys.modules["IPython"], sys.modules["IPython.display"] = types.ModuleType("IPython"), notebook
    names = ("api", "chat_template", "choices", "backend.base_backend", "backend.runtime_endpoint")
    return Frontend(*(import_module(f"sglang.lang.{name}") for name in names))
