"""What engines take when they serve, measured from recorded calls of a model.

A worker's profile is measured in a loop of nothing but the model. Served, the model finds its weights in no
cache, shares processors with everything else, and draws, spells and sends what it writes; messages and the
orchestrator take their time as well. All of that is seen in recorded runs whose programs are single calls,
some alone, some of them several at once.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from weft.graph.costs import ModelCosts, PrefillPoint
from weft.proto import orchestrator_pb2 as pb
from weft.proto import worker_pb2

from .profiles import BatchProfile, LlmProfile
from .simulation import Delays

__all__ = ["as_served", "batches_of", "delays_of"]

_ENGINES: Final = ("embed", "index", "rerank")
_SAME_S: Final = 1e-4  # by which the ends of one step differ
_ENOUGH: Final = 8  # prompts that were read alone, from which costs can be told apart


def batches_of(runs: Iterable[pb.RunInfo]) -> list[BatchProfile]:
    """The engines that compute batches, as fast as they were."""
    times: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for stat in run.stats:
            if stat.kind in _ENGINES:
                times[stat.kind].append(stat.timing.compute * 1e3)
    return [BatchProfile(kind, call_ms=_median(times[kind]) or 1.0, item_ms=0.01) for kind in _ENGINES]


def delays_of(runs: Iterable[pb.RunInfo]) -> Delays:
    """What lay between orchestrator and engines, half of it either way, and what a run takes at its end."""
    rests: list[float] = []
    ends: list[float] = []
    for run in runs:
        stats = {stat.node: stat for stat in run.stats}
        rests += [
            max(stat.finished_s - _known(stat, stats) - _phases(stat.timing), 0.0)
            for stat in run.stats
            if _phases(stat.timing) and not stat.timing.reused
        ]
        if run.stats:
            ends.append(max(run.seconds - max(stat.finished_s for stat in run.stats), 0.0))
    return Delays(hop_s=_median(rests) / 2, run_s=_median(ends))


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _phases(timing: worker_pb2.Timing) -> float:
    """Seconds in an engine."""
    return timing.queued + timing.prefill + timing.decode + timing.compute


def _known(stat: pb.NodeStat, stats: Mapping[int, pb.NodeStat]) -> float:
    """When the orchestrator knew all operands of a task.

    A prefill that is computed with what follows on it is done at once: there the operands of both count.
    """
    known = 0.0
    for maker in (stats[value.node] for value in stat.operands if value.node in stats):
        at_once = maker.kind == "llm" and not _phases(maker.timing)
        known = max(known, _known(maker, stats) if at_once else maker.finished_s)
    return known


def as_served(runs: Iterable[pb.RunInfo], profile: LlmProfile) -> LlmProfile:
    """The profile of a model as it was in these runs.

    Reading is measured where a call was alone. Writing is measured where all calls that overlapped wrote as
    many tokens: who was the last to begin wrote all of them in the company of all others. What was not
    measured stays as it is in `profile`.
    """
    groups = list(_groups(_spans(runs)))
    equal = [group for group in groups if len({t.generated_tokens for t in group}) == 1]
    alone = [group[0] for group in groups if len(group) == 1 and group[0].prefill]
    steps_ms = _steps_ms(equal, profile.costs)
    profile = replace(profile, step_ms=steps_ms or profile.step_ms)
    if len(alone) < _ENOUGH:
        return profile
    reads = [PrefillPoint(t.cached_tokens, t.computed_tokens, t.prefill * 1e3) for t in alone]
    costs = replace(profile.costs, prefill=tuple(reads))
    return replace(profile, costs=costs, prompt_ms=_prompt_ms(groups, costs))


def _prompt_ms(groups: Iterable[Sequence[worker_pb2.Timing]], costs: ModelCosts) -> float:
    """What each prompt beyond the first adds to a step, whatever its length."""
    base, each, per_pair = costs.prefill_terms
    more: list[float] = []
    for group in groups:
        for step in _read_together(group):
            tokens = sum(each * t.computed_tokens for t in step)
            pairs = sum(t.computed_tokens * (t.cached_tokens + t.computed_tokens / 2) for t in step)
            more.append((step[0].prefill * 1e3 - base - tokens - per_pair * pairs) / (len(step) - 1))
    return max(_median(more), 0.0)


def _read_together(group: Sequence[worker_pb2.Timing]) -> Iterator[Sequence[worker_pb2.Timing]]:
    """Calls whose prompts one step has read: so they took equally long from beginning to end."""
    ordered = sorted(group, key=lambda timing: timing.prefill)
    step: list[worker_pb2.Timing] = []
    for timing in ordered:
        if step and timing.prefill - step[-1].prefill > _SAME_S:
            if len(step) > 1:
                yield step
            step = []
        step.append(timing)
    if len(step) > 1:
        yield step


def _steps_ms(
    groups: Iterable[Sequence[worker_pb2.Timing]], costs: ModelCosts
) -> Sequence[tuple[int, float]]:
    """For each number of calls at once: a step's milliseconds, less what their contexts take."""
    _, _, per_token = costs.decode_terms
    found: dict[int, list[float]] = defaultdict(list)
    for group in groups:
        last = min(group, key=lambda timing: timing.decode)
        steps = last.generated_tokens - 1 + (last.finish == "stop")
        if steps > 0:
            contexts = sum(timing.prompt_tokens + timing.generated_tokens / 2 for timing in group)
            found[len(group)].append(last.decode * 1e3 / steps - per_token * contexts)
    steps_ms, least = [], 0.0
    for count, times in sorted(found.items()):
        least = max(least, statistics.fmean(times))  # a larger batch takes no less
        steps_ms.append((count, least))
    return steps_ms


class _Span(NamedTuple):
    """A call of a model."""

    start: float  # unix seconds
    end: float
    timing: worker_pb2.Timing


def _spans(runs: Iterable[pb.RunInfo]) -> Iterator[_Span]:
    for run in runs:
        stats = {stat.node: stat for stat in run.stats}
        for stat in run.stats:
            if stat.kind == "llm" and (stat.timing.prefill or stat.timing.decode):
                start = run.started_unix_s + _known(stat, stats)
                yield _Span(start, run.started_unix_s + stat.finished_s, stat.timing)


def _groups(spans: Iterable[_Span]) -> Iterator[list[worker_pb2.Timing]]:
    """Calls that overlap, directly or by others."""
    group: list[worker_pb2.Timing] = []
    end = 0.0
    for span in sorted(spans, key=lambda span: span.start):
        if group and span.start >= end:
            yield group
            group = []
        group.append(span.timing)
        end = max(end, span.end)
    if group:
        yield group
