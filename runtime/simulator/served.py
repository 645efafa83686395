"""What engines take when they serve, measured from recorded calls of a model.

A worker's profile is measured in a loop of nothing but the model. Served, the model finds its weights in no
cache, shares processors with everything else, and draws, spells and sends what it writes; messages and the
orchestrator take their time as well; and no machine is always equally fast. All of that is seen in recorded
runs whose programs are single calls, some alone, some of them several at once.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final, NamedTuple

from weft.graph.costs import ModelCosts, PrefillPoint
from weft.proto import orchestrator_pb2 as pb
from weft.proto import worker_pb2

from .profiles import BatchProfile, LlmProfile
from .simulation import Delays
from .spread import Spread

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
    many tokens: who was the last to begin wrote all of them in the company of all others. How evenly the
    machine computed is measured where calls alone came one right after the other. What was not measured stays
    as it is in `profile`.
    """
    spans = list(_groups(_spans(runs)))
    groups = [[span.timing for span in group] for group in spans]
    equal = [group for group in groups if len({t.generated_tokens for t in group}) == 1]
    alone = [group[0] for group in spans if len(group) == 1 and group[0].timing.computed_tokens]
    after_ms = _after_prompt_ms(equal, profile.costs)
    steps_ms = _steps_ms(equal, profile.costs, after_ms)
    if steps_ms:
        profile = replace(profile, step_ms=steps_ms, after_prompt_ms=after_ms)
    if len(alone) < _ENOUGH:
        return profile
    timings = [span.timing for span in alone]
    reads = [PrefillPoint(t.cached_tokens, t.computed_tokens, t.prefill * 1e3) for t in timings]
    costs = replace(profile.costs, prefill=tuple(reads))
    profile = replace(profile, costs=costs, prompt_ms=_prompt_ms(groups, costs))
    return replace(profile, spread=_spread(alone, profile) or profile.spread)


def _spread(alone: Sequence[_Span], profile: LlmProfile) -> Spread | None:
    """How much longer than the profile says calls took that were alone, and how long that stayed so.

    Each row of calls counts as much as any other, as when it came has nothing to do with how fast the machine
    was; in a row, a stretch counts by the time for which it was seen. If another one comes at any time with
    the same odds, the logarithm's squared changes from call to call, by the time between these, are twice its
    variance by the time that a stretch lasts.
    """
    stretches: list[tuple[float, float]] = []
    passed = squares = 0.0
    for row in _rows(alone):
        took = [span.timing.prefill + span.timing.decode for span in row]
        found = [_stretch(span.timing, profile) for span in row]
        stretches += zip(found, (seconds / sum(took) for seconds in took), strict=True)
        passed += row[-1].start - row[0].start
        squares += sum(math.log(after / before) ** 2 for before, after in pairwise(found))
    if not squares:
        return None
    logs, weights = [math.log(stretch) for stretch, _ in stretches], [weight for _, weight in stretches]
    mean = statistics.fmean(logs, weights)
    variance = statistics.fmean([(log - mean) ** 2 for log in logs], weights)
    return Spread(stretches, 2 * variance * passed / squares)


def _rows(alone: Sequence[_Span]) -> Iterator[list[_Span]]:
    """Calls that came one right after the other: with less between them than they take in the mean."""
    usual = statistics.fmean(span.end - span.start for span in alone)
    row = [alone[0]]
    for span in alone[1:]:
        if span.start - row[-1].end >= usual:
            yield row
            row = []
        row.append(span)
    yield row


def _stretch(timing: worker_pb2.Timing, profile: LlmProfile) -> float:
    """What a call took that was alone, as a multiple of what the profile says."""
    steps = _steps(timing)
    contexts = timing.prompt_tokens + timing.generated_tokens / 2
    ms = profile.costs.prefill_ms(timing.cached_tokens, timing.computed_tokens)
    ms += steps * (profile.steps(1) + profile.costs.decode_terms[2] * contexts)
    ms += profile.after_prompt_ms if steps else 0.0
    return (timing.prefill + timing.decode) * 1e3 / ms


def _steps(timing: worker_pb2.Timing) -> int:
    """That wrote a text after its prompt had been read."""
    return timing.generated_tokens - 1 + (timing.finish == "stop")


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


def _after_prompt_ms(groups: Iterable[Sequence[worker_pb2.Timing]], costs: ModelCosts) -> float:
    """What texts take that were written alone, however short they are; 0 where all are equally long."""
    _, _, per_token = costs.decode_terms
    steps, ms = [], []
    for timing in (group[0] for group in groups if len(group) == 1):
        if count := _steps(timing):
            steps.append(count)
            contexts = timing.prompt_tokens + timing.generated_tokens / 2
            ms.append(timing.decode * 1e3 - per_token * contexts * count)
    if len(set(steps)) < 2:
        return 0.0
    return max(statistics.linear_regression(steps, ms).intercept, 0.0)


def _steps_ms(
    groups: Iterable[Sequence[worker_pb2.Timing]], costs: ModelCosts, after_ms: float
) -> Sequence[tuple[int, float]]:
    """For each number of calls at once: a step's milliseconds, less what their contexts take."""
    _, _, per_token = costs.decode_terms
    found: dict[int, list[float]] = defaultdict(list)
    for group in groups:
        last = min(group, key=lambda timing: timing.decode)
        steps = _steps(last)
        if steps > 0:
            contexts = sum(timing.prompt_tokens + timing.generated_tokens / 2 for timing in group)
            found[len(group)].append((last.decode * 1e3 - after_ms) / steps - per_token * contexts)
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


def _groups(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    """Calls that overlap, directly or by others."""
    group: list[_Span] = []
    end = 0.0
    for span in sorted(spans, key=lambda span: span.start):
        if group and span.start >= end:
            yield group
            group = []
        group.append(span)
        end = max(end, span.end)
    if group:
        yield group
