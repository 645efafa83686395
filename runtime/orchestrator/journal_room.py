"""How much of a journal is taken, where the database does not count."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable
from typing import Final

from .journal_store import Begin, Change, Conclude, End, Forget, Left, Put, Submit

__all__ = ["Room"]

_ROW_BYTES: Final = 64  # that a database takes for a row besides its values, about

_Place = tuple[str, bool]  # a run, and whether it is over


class Room:
    """What has been kept of each run, in bytes, and of how those have ended that are over."""

    def __init__(self, left: Left) -> None:
        self._taken: dict[_Place, int] = {}
        self.size = 0
        for run in left.runs:
            self.take([Submit(run.run, run.started_unix_s, run.request)])
            self.take(Put(run.run, *result) for result in run.results.items())
            self.take(Begin(run.run, place) for place in run.begun)
        self.take(Conclude(*outcome) for outcome in left.outcomes.items())

    def growth(self, changes: Iterable[Change]) -> int:
        """How many bytes more changes would take."""
        return self._growth(self._after(changes))

    def take(self, changes: Iterable[Change]) -> None:
        """Changes have been made."""
        after = self._after(changes)
        self.size += self._growth(after)
        for place, size in after.items():
            if size:
                self._taken[place] = size
            else:
                self._taken.pop(place, None)

    def _growth(self, after: dict[_Place, int]) -> int:
        return sum(size - self._taken.get(place, 0) for place, size in after.items())

    def _after(self, changes: Iterable[Change]) -> dict[_Place, int]:
        """What all that changes touch would take after them."""
        after: dict[_Place, int] = {}
        sizes = ChainMap(after, self._taken)
        for change in changes:
            lives, over = (change.run, False), (change.run, True)
            match change:
                case Submit(request=request):
                    after[lives] = _ROW_BYTES + len(request)
                case Put(key=key, results=results) if sizes.get(lives):
                    after[lives] = sizes[lives] + _ROW_BYTES + len(key) + len(results)
                case Begin(place=place):
                    after[lives] = sizes.get(lives, 0) + _ROW_BYTES + len(place)
                case End():
                    after[lives] = 0
                case Conclude(outcome=outcome):
                    after[over] = _ROW_BYTES + len(outcome)
                case Forget():
                    after[over] = 0
        return after
