"""When further bodies of maps and folds begin: as earlier ones end, and so that all else has its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from .run import Run

__all__ = ["Turns"]


class Turns:
    """The turns of live runs in the event loop.

    `begin` lets the bodies of a map or fold that may begin, and `go_on` a run with all that it can do now.
    """

    def __init__(
        self, runs: Mapping[str, Run], begin: Callable[[Run, int], None], go_on: Callable[[str], None]
    ) -> None:
        self._runs = runs
        self._begin = begin
        self._go_on = go_on

    def advance(self, run: Run) -> None:
        """Begin bodies of maps and folds that waited for others to end.

        Where these end at once, those that waited for them are begun after what else the server has to do.
        """
        if run.advancing:
            return
        run.advancing = True
        unblocked, run.unblocked = run.unblocked, {}
        for control in unblocked:
            if run.id in self._runs and control not in run.later:
                self._begin(run, control)
        run.advancing = False
        if run.unblocked:
            asyncio.get_running_loop().call_soon(self._go_on, run.id)

    def put_off(self, run: Run, control: int) -> None:
        """Begin further bodies after what else the server has to do: of one map or fold at a time."""
        if not run.later:
            asyncio.get_running_loop().call_soon(self._begin_more, run)
        run.later[control] = None

    def _begin_more(self, run: Run) -> None:
        if self._runs.get(run.id) is not run:  # it is over, even if another one has its id
            return
        control = next(iter(run.later))
        del run.later[control]
        if run.later:
            asyncio.get_running_loop().call_soon(self._begin_more, run)
        run.unblocked[control] = None
        self._go_on(run.id)
