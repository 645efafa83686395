"""Measuring how fast a model runs here: what schedulers and cost gates reckon with."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from weft.runtime.kv.radix import Tokens

from .limits import Limits
from .runner import Runner, Work
from .sequence import Sequence

__all__ = ["DecodePoint", "PrefillPoint", "Profile", "measure_profile"]

_CACHED = (0, 256, 1024, 4096)  # tokens
_NEW = (16, 64, 256, 1024)  # tokens
_BATCHES = (1, 4, 16, 64)  # sequences
_CONTEXTS = (64, 256, 1024, 4096)  # tokens
_TURNS = 2  # in which points are timed again, at most
_WORTHWHILE = 1.2  # a batch is efficient while each step up still gains this factor of throughput


@dataclass(frozen=True, slots=True)
class PrefillPoint:
    """The time of computing `new` tokens behind `cached` ones."""

    cached: int
    new: int
    ms: float


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """The time of one step of `batch` decodes, each with `context` tokens."""

    batch: int
    context: int
    ms: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Measured times; the smallest points of both kinds are always there."""

    prefill: tuple[PrefillPoint, ...]
    decode: tuple[DecodePoint, ...]

    @property
    def efficient_batch(self) -> int:
        """The largest measured batch, at the shortest context, up to which throughput rises well."""
        shortest = min(point.context for point in self.decode)
        points = sorted((p for p in self.decode if p.context == shortest), key=lambda point: point.batch)
        best = points[0]
        for point in points[1:]:
            if point.batch / point.ms < _WORTHWHILE * best.batch / best.ms:
                break
            best = point
        return best.batch


def measure_profile(runner: Runner, slots: Tokens, limits: Limits, seconds: float) -> Profile:
    """Time steps of growing size until `seconds` are over, overwriting the KV in `slots`.

    Slow models get fewer points, but at least one of each kind. The best of at least two times counts: when a
    size is met first, the libraries set themselves up for it, so all are timed again once all have been met.
    Raises `ValueError` if `slots` are too few for a point of each kind.
    """
    meter = _Meter(runner, slots)
    times: dict[_Point, float] = {}
    began = time.perf_counter()
    meter.warm_up()
    for point in _grid(limits, len(slots)):
        if len({met.new > 0 for met in times}) == 2 and time.perf_counter() > began + seconds / 2:
            break
        times[point] = meter.time(point)
    for turn, point in itertools.product(range(_TURNS), tuple(times)):
        if turn and time.perf_counter() > began + seconds:
            break
        times[point] = min(times[point], meter.time(point))
    prefill = tuple(PrefillPoint(p.cached, p.new, ms) for p, ms in times.items() if p.new)
    decode = tuple(DecodePoint(p.batch, p.context, ms) for p, ms in times.items() if not p.new)
    if not (prefill and decode):
        raise ValueError(f"{len(slots)} free KV slots are too few to measure a profile")
    return Profile(prefill, decode)


class _Point(NamedTuple):
    """A step of `new` tokens behind `cached` ones, or of `batch` decodes of `context` tokens each."""

    cached: int = 0
    new: int = 0
    batch: int = 1
    context: int = 0


def _grid(limits: Limits, slots: int) -> Iterator[_Point]:
    """Both kinds by turns, and the cheapest first."""
    longest = min(limits.context_length, slots)
    prefills = [
        _Point(cached, new)
        for cached, new in itertools.product(_CACHED, _NEW)
        if cached + new <= longest and new <= max(limits.token_budget, _NEW[0])
    ]
    decodes = [
        _Point(batch=batch, context=context)
        for batch, context in itertools.product(_BATCHES, _CONTEXTS)
        if context <= longest and batch <= limits.max_running
    ]
    prefills.sort(key=lambda point: (point.cached + 4 * point.new, point))
    decodes.sort(key=lambda point: (point.batch * point.context, point))
    for pair in itertools.zip_longest(prefills, decodes):
        yield from (point for point in pair if point is not None)


class _Meter:
    """Times single steps on made-up tokens."""

    def __init__(self, runner: Runner, slots: Tokens) -> None:
        self._runner = runner
        self._slots = slots
        self._vocab = runner.model.config.vocab_size

    def warm_up(self) -> None:
        """Let the libraries set themselves up."""
        self._step(1, 0, 1)

    def time(self, point: _Point) -> float:
        """Milliseconds of a step."""
        if point.new:
            return self._step(1, point.cached, point.new)
        return self._step(point.batch, point.context - 1, 1)

    def _step(self, batch: int, cached: int, new: int) -> float:
        work = [self._work(index, cached, new) for index in range(batch)]
        rows = [(index + 1) * new - 1 for index in range(batch)]
        started = time.perf_counter()
        self._runner.run(work, rows).argmax(dim=-1).tolist()
        return (time.perf_counter() - started) * 1e3

    def _work(self, index: int, cached: int, new: int) -> Work:
        length = cached + new
        sequence = Sequence(np.arange(length) % self._vocab, length)
        sequence.slots[:] = self._slots[(index * length + np.arange(length)) % len(self._slots)]
        sequence.computed = cached
        return sequence, new
