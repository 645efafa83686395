"""The systems that the suite compares: each runs any plan in its own way.

Every module has a function `runner`, which makes a plan into something to call, and needs its framework to be
imported. Those of the baselines take the `Calls` that they make; weft's takes its client.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NamedTuple

from plans.language import Plan

from .calls import Calls, Run

__all__ = ["BASELINES", "OWN", "PLAIN", "SYSTEMS", "USUAL", "System", "runner"]


class System(NamedTuple):
    """A way of running plans."""

    module: str
    """Of this package."""
    package: str
    """What must be installed for it."""
    install: str = "pip install 'weft[bench]'"
    """The command that installs it."""

    @property
    def version(self) -> str | None:
        """The installed version of the package, or None."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


BASELINES: Final[Mapping[str, System]] = {
    "sequential": System("sequential", "openai"),
    "asyncio": System("gathered", "openai"),
    "unshared": System("gathered", "openai"),
    "langgraph": System("langgraph_graphs", "langgraph"),
    "llama-index": System("llama_index_workflows", "llama-index-workflows"),
    "haystack": System("haystack_pipelines", "haystack-ai"),
    "sglang": System("sglang_programs", "sglang", "make sglang"),
}
"""By name; each calls the engine as OpenAI's client does, SGLang's frontend as it calls its own server.

`unshared` is asyncio of which no two calls share what is read, as on an engine without a prefix cache.
"""

PLAIN: Final = "no passes"
"""weft on a server of its own whose optimizer does nothing that can be switched off."""
OWN: Final = ("weft", PLAIN)
SYSTEMS: Final = (*OWN, *BASELINES)
USUAL: Final = tuple(name for name in SYSTEMS if name not in {PLAIN, "unshared"})
"""Those that are compared unless others are named."""


def runner(name: str, plan: Plan, calls: Calls) -> Run:
    """A plan in the baseline of that name, which must be installed."""
    made: Run = import_module(f".{BASELINES[name].module}", __name__).runner(plan, calls)
    return made
