"""How long tools take, and so for how long a context is worth keeping while one runs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from weft.graph.sketch import Quantiles

__all__ = ["Patience"]

_QUANTILE: Final = 0.9
_HALF: Final = 0.5
_EARLIEST: Final = 0.1  # a quantile, too
_LEAST_S: Final = 1.0  # for less, no context is worth its way to the host and back
_LEAST_PART: Final = 1 / 6  # of how long a call is waited for: a lognormal's whose sigma is 0.7
_ENOUGH: Final = 8  # calls from which a tool's own times count
_TOOLS: Final = 1024
_DEFAULT_S: Final = 5.0


class Patience:
    """Observed times by tool. A tool that has not been seen often is taken for an average one.

    A context is kept until 9 of 10 calls would be over. The rest take so much longer (the slowest tenth of
    calls is half of all waiting or more, says Continuum, arXiv:2511.02230) that waiting on is wasted.
    """

    def __init__(self) -> None:
        self._times: OrderedDict[str, Quantiles] = OrderedDict()
        self._all = Quantiles()

    def note(self, tool: str, seconds: float) -> None:
        """A call of a tool took so long."""
        times = self._times.get(tool)
        if times is None:
            times = self._times[tool] = Quantiles()
            if len(self._times) > _TOOLS:
                self._times.popitem(last=False)
        else:
            self._times.move_to_end(tool)
        times.add(seconds)
        self._all.add(seconds)

    def seconds(self, tool: str) -> float:
        """How long to wait for a call."""
        times = self._seen(tool)
        return times.quantile(_QUANTILE) if times is not None else _DEFAULT_S

    def worthwhile(self, tool: str, most_s: float) -> float:
        """The same where waiting costs something, and more than `most_s` is too dear.

        Not at all if half of the calls take longer: that would mostly be in vain.
        """
        times = self._seen(tool)
        if times is not None and times.quantile(_HALF) > most_s:
            return 0.0
        return min(self.seconds(tool), most_s)

    def earliest(self, tool: str) -> float:
        """The seconds in which a call is not expected to end, as 9 of 10 took longer.

        None of a tool whose times vary much: who has waited for it for long waits on for longer than who has
        just begun.
        """
        times = self._times.get(tool)
        if times is None or times.count < _ENOUGH:
            return 0.0
        earliest, latest = times.quantile(_EARLIEST), times.quantile(_QUANTILE)
        return earliest if earliest >= max(_LEAST_S, _LEAST_PART * latest) else 0.0

    def _seen(self, tool: str) -> Quantiles | None:
        """The times of a tool, or of all if it has not been seen often, if they have been."""
        times = self._times.get(tool)
        if times is None or times.count < _ENOUGH:
            times = self._all
        return times if times.count >= _ENOUGH else None
