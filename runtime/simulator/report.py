"""What a simulation says of a scheduler: how long programs took, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from .simulation import Outcome, RunStat

__all__ = ["Latency", "Report", "goodput", "jain", "pooled", "report"]


_SUMS: Final = (
    "seconds",
    "decisions",
    "primitives",
    "scheduler_s",
    "tasks",
    "cached_tokens",
    "fetched_tokens",
    "computed_tokens",
    "written_tokens",
    "retractions",
)


@dataclass(frozen=True)
class Latency:
    """Job completion times of one program, in seconds."""

    runs: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Report:
    """One simulation in numbers."""

    failed: int
    latency: Mapping[str, Latency]  # by program, and of all together under "all"
    hit_rate: float  # tokens of prompts that were found in a cache, or came from another worker's
    fetched_tokens: int  # that came from another worker's
    computed_tokens: int
    recomputed_tokens: int  # that some worker had computed before; known if the calls were kept
    written_tokens: int
    retractions: int
    utilization: float  # of the time of all engines
    imbalance: float  # the busiest worker by the mean
    us_per_primitive: float  # of CPU time in the scheduler


def report(outcome: Outcome) -> Report:
    """The numbers of an outcome."""
    good = [run for run in outcome.runs if not run.fault]
    names = sorted({run.name for run in good})
    latency = {name: _latency([run.seconds for run in good if run.name == name]) for name in names}
    latency["all"] = _latency([run.seconds for run in good])
    read = outcome.cached_tokens + outcome.computed_tokens
    busy = list(outcome.loads.values())
    return Report(
        failed=len(outcome.runs) - len(good),
        latency=latency,
        hit_rate=outcome.cached_tokens / max(read, 1.0),
        fetched_tokens=round(outcome.fetched_tokens),
        computed_tokens=round(outcome.computed_tokens),
        recomputed_tokens=round(_recomputed(outcome)) if outcome.calls else 0,
        written_tokens=round(outcome.written_tokens),
        retractions=outcome.retractions,
        utilization=fmean(busy) / max(outcome.seconds, 1e-9) if busy else 0.0,
        imbalance=max(busy) / max(fmean(busy), 1e-9) if busy else 0.0,
        us_per_primitive=outcome.scheduler_s / max(outcome.primitives, 1) * 1e6,
    )


def pooled(outcomes: Sequence[Outcome]) -> Outcome:
    """Simulations of the same workers with other programs, as if one had followed on the other."""
    together = Outcome([])
    for outcome in outcomes:
        together.runs += outcome.runs
        together.calls += outcome.calls
        for worker, seconds in outcome.loads.items():
            together.loads[worker] = together.loads.get(worker, 0.0) + seconds
        for name in _SUMS:
            setattr(together, name, getattr(together, name) + getattr(outcome, name))
    return together


def goodput(runs: Sequence[RunStat], alone_s: Sequence[float], factor: float) -> float:
    """The share of runs that took at most `factor` times what each takes alone, failed ones included."""
    good = sum(not r.fault and r.seconds <= factor * s for r, s in zip(runs, alone_s, strict=True))
    return good / max(len(runs), 1)


def jain(shares: Iterable[float]) -> float:
    """Jain's index of fairness: 1 if all shares are equal, 1/n if one of n has everything."""
    values = list(shares)
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _latency(seconds: Sequence[float]) -> Latency:
    ordered = sorted(seconds)
    if not ordered:
        return Latency(0, 0.0, 0.0, 0.0, 0.0)
    p50, p95, p99 = (ordered[math.ceil(q * len(ordered)) - 1] for q in (0.5, 0.95, 0.99))
    return Latency(len(ordered), fmean(ordered), p50, p95, p99)


def _recomputed(outcome: Outcome) -> float:
    """The tokens that were computed although some worker had read or written them before."""
    known: set[int] = set()
    new = 0.0
    for call in outcome.calls:
        before = 0.0
        for key, tokens in call.path:
            if key not in known:
                known.add(key)
                new += tokens - before
            before = tokens
        known.update(key for key, _ in call.written_path)
    return max(outcome.computed_tokens - new, 0.0)
