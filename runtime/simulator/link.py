"""A model of what lies between workers: each has a port, and who sends or receives there shares it."""

from __future__ import annotations

from collections.abc import Callable

from .clock import Alarm, Clock

__all__ = ["Port", "Shipment"]


class Port:
    """Where a worker meets the network; so many bytes a millisecond in, and as many out."""

    def __init__(self, bytes_per_ms: float) -> None:
        self.bytes_per_ms = bytes_per_ms
        self.sending: dict[Shipment, None] = {}
        self.receiving: dict[Shipment, None] = {}


class Shipment:
    """Bytes on their way from one port to another, as fast as the slower of its shares of both."""

    def __init__(
        self, source: Port, target: Port, size: float, clock: Clock, done: Callable[[], object]
    ) -> None:
        """Begins now. `done` is called when all has come."""
        self.size = size
        self._source, self._target = source, target
        self._clock, self._done = clock, done
        self._left, self._rate, self._since = size, 0.0, clock.now
        self._alarm: Alarm | None = None
        source.sending[self] = target.receiving[self] = None
        self._share()

    def stop(self) -> float:
        """End it now, unheard; the bytes that have come."""
        self._settle()
        if self._alarm is not None:
            self._alarm.call_off()
            del self._source.sending[self], self._target.receiving[self]
            self._alarm = None
            self._share()
        return self.size - self._left

    def _share(self) -> None:
        """Give everybody at either port his share anew."""
        for each in {**self._source.sending, **self._target.receiving}:
            each._settle()
            each._set_rate()

    def _settle(self) -> None:
        now = self._clock.now
        self._left = max(self._left - (now - self._since) * 1e3 * self._rate, 0.0)
        self._since = now

    def _set_rate(self) -> None:
        source, target = self._source, self._target
        out = source.bytes_per_ms / len(source.sending)
        self._rate = min(out, target.bytes_per_ms / len(target.receiving))
        if self._alarm is not None:
            self._alarm.call_off()
        self._alarm = self._clock.after(self._left / self._rate / 1e3, self._end)

    def _end(self) -> None:
        self._left, self._since = 0.0, self._clock.now
        self.stop()
        self._done()
