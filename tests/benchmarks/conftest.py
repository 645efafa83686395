"""Makes `benchmarks/reuse` importable, but not the scripts beside it: `kernels` is another package's name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / "benchmarks" / "reuse"

_spec = importlib.util.spec_from_file_location(
    "reuse", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
)
assert _spec is not None
assert _spec.loader is not None
sys.modules["reuse"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["reuse"])
