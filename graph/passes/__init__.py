"""The passes, one file each, and the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ..deployment import Deployment
from ..ir import Value
from ..types import Type
from .base import Pass, PassReport, Rewrite
from .dedupe import Dedupe
from .lower import Lower
from .prune import Prune

__all__ = ["OPTIONAL", "Pass", "PassReport", "Pipeline", "Rewrite"]

OPTIONAL = ("prune", "dedupe")
"""The passes that can be switched off by name; the outputs stay the same."""


class Pipeline:
    """The passes of one run, in order; some remember what earlier increments held.

    `types` are those of every value that earlier increments made, `aliases` the values that stand for ones
    that passes replaced; the owner keeps both up to date.
    Raises ValueError when `disabled` names a pass that cannot be switched off.
    """

    def __init__(
        self,
        deployment: Deployment,
        types: Mapping[Value, Type],
        aliases: Mapping[Value, Value],
        new_id: Callable[[], int],
        disabled: Collection[str] = (),
    ) -> None:
        unknown = [name for name in disabled if name not in OPTIONAL]
        if unknown:
            raise ValueError(f"there is no optional pass {unknown[0]!r}; known: {', '.join(OPTIONAL)}")
        self._disabled = disabled
        self._open: list[Pass] = [Lower(deployment, types, aliases, new_id), Dedupe(types, new_id)]
        self._closed: list[Pass] = [self._open[0], Prune(), self._open[1]]

    def passes(self, *, closed: bool) -> list[Pass]:
        """The passes for an increment; only a closed one, of which only the outputs are taken, is pruned."""
        return [step for step in (self._closed if closed else self._open) if step.name not in self._disabled]
