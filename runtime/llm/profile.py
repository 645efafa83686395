"""Measuring how fast a model runs here: what schedulers and cost gates reckon with."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

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

    Slow models get fewer points, but at least one of each kind. Raises `ValueError` if `slots` are too few
    for that.
    """
    meter = _Meter(runner, slots)
    prefill: list[PrefillPoint] = []
    decode: list[DecodePoint] = []
    deadline = time.perf_counter() + seconds
    meter.warm_up()
    for cached, new, batch, context in _grid(limits, len(slots)):
        if prefill and decode and time.perf_counter() > deadline:
            break
        if new:
            prefill.append(PrefillPoint(cached, new, meter.time(1, cached, new)))
        else:
            decode.append(DecodePoint(batch, context, meter.time(batch, context - 1, 1)))
    if not (prefill and decode):
        raise ValueError(f"{len(slots)} free KV slots are too few to measure a profile")
    return Profile(tuple(prefill), tuple(decode))


def _grid(limits: Limits, slots: int) -> Iterator[tuple[int, int, int, int]]:
    """(cached, new, 0, 0) and (0, 0, batch, context), both kinds by turns and the cheapest first."""
    longest = min(limits.context_length, slots)
    prefills = [
        (cached, new, 0, 0)
        for cached, new in itertools.product(_CACHED, _NEW)
        if cached + new <= longest and new <= max(limits.token_budget, _NEW[0])
    ]
    decodes = [
        (0, 0, batch, context)
        for batch, context in itertools.product(_BATCHES, _CONTEXTS)
        if context <= longest and batch <= limits.max_running
    ]
    prefills.sort(key=lambda point: (point[0] + 4 * point[1], point))
    decodes.sort(key=lambda point: (point[2] * point[3], point))
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

    def time(self, batch: int, cached: int, new: int) -> float:
        """Milliseconds of a step: the better of two runs."""
        return min(self._step(batch, cached, new) for _ in range(2))

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
