"""Which logits a step needs, and what is drawn from them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from weft.kernels.sampling import sample
from weft.runtime.cuda import CUDA

from .grammar import apply_mask
from .planner import Chunk
from .requests import Likeliest
from .tasks import GenerateTask, ScoreTask, Task, likeliest

__all__ = ["Drawn", "Layout", "draw_tokens", "lay_out", "weigh_options"]

_WEIGHED: Final = 64  # rows of logits at a time, whose probabilities take as much memory again


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of a step's logits."""

    rows: list[int] = field(default_factory=list)  # the tokens they follow, counted through the batch
    draws: list[tuple[GenerateTask, range]] = field(default_factory=list)
    scores: list[tuple[ScoreTask, Chunk, slice]] = field(default_factory=list)


def lay_out(chunks: Sequence[Chunk], tasks: Mapping[int, Task]) -> Layout:
    """Decide which logits the step needs; `tasks` are found by the id of their job."""
    layout = Layout()
    start = 0
    for chunk in chunks:
        task = tasks[chunk.job.id]
        wanted = task.wanted(chunk)
        first = len(layout.rows)
        layout.rows.extend(start + token for token in wanted)
        start += chunk.count
        if not wanted:
            continue
        if isinstance(task, GenerateTask):
            layout.draws.append((task, range(first, len(layout.rows))))
        elif isinstance(task, ScoreTask):
            layout.scores.append((task, chunk, slice(first, len(layout.rows))))
    return layout


def weigh_options(layout: Layout, logits: torch.Tensor) -> None:
    """Give those who weigh options what `logits` [rows, vocab] say of them, fetched for all together."""
    rows: list[int] = []
    pairs: list[tuple[int, int]] = []  # of a place among the rows, and a token that is weighed there
    counts: list[int] = []
    for task, chunk, span in layout.scores:
        targets = task.targets(chunk)
        pairs += [(len(rows) + place, token) for place, token in targets]
        rows += range(span.start, span.stop)
        counts.append(len(targets))
    most = max((task.top for task, _, _ in layout.scores), default=0)
    weighed: list[torch.Tensor] = []
    tops: list[Likeliest] = []
    for block, wanted in itertools.groupby(pairs, lambda pair: pair[0] // _WEIGHED):
        first = block * _WEIGHED
        logprobs = logits[rows[first : first + _WEIGHED]].log_softmax(dim=-1)
        places, tokens = torch.tensor(list(wanted)).T.to(logits.device)
        weighed.append(logprobs[places - first, tokens])
        tops += likeliest(logprobs, most)
    values = iter(torch.cat(weighed).tolist() if weighed else ())
    found = iter(tops)
    for (task, chunk, span), count in zip(layout.scores, counts, strict=True):
        own = [top[: task.top] for top in itertools.islice(found, span.stop - span.start)]
        task.guard(task.receive, chunk, list(itertools.islice(values, count)), own)


class Drawn:
    """The tokens of a step, perhaps still being computed."""

    def __init__(self, spans: Sequence[tuple[GenerateTask, range]], tokens: torch.Tensor | None) -> None:
        """`tokens`: int64 [rows]; their copy for the host begins at once, before later work of the device."""
        self.spans = spans
        self.tokens = tokens
        self._copied: Any = None
        if tokens is None or not tokens.is_cuda:
            self._copy = tokens
            return
        self._copy = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        self._copy.copy_(tokens, non_blocking=True)
        self._copied = CUDA.Event()
        self._copied.record()

    def wait(self) -> list[tuple[GenerateTask, list[int]]]:
        """The tokens of each task that has not ended meanwhile."""
        if self._copy is None:
            return []
        if self._copied is not None:
            self._copied.synchronize()
        tokens = self._copy.tolist()
        return [(task, tokens[span.start : span.stop]) for task, span in self.spans if not task.done]


def draw_tokens(layout: Layout, logits: torch.Tensor) -> Drawn:
    """Sample for each decode a token behind its last one and behind each of its draft, grammars obeyed.

    A task whose grammar fails is marked and left out.

    `logits` [rows, vocab] may be changed.
    """
    drawing = [(task, rows) for task, rows in layout.draws if not task.done]
    if not drawing:
        return Drawn((), None)
    if layout.scores or len(drawing) < len(layout.draws):
        logits = logits[[row for _, rows in drawing for row in rows]]
    ends = itertools.accumulate(len(rows) for _, rows in drawing)
    spans = [(task, range(end - len(rows), end)) for (task, rows), end in zip(drawing, ends, strict=True)]
    for task, span in spans:
        if task.logprobs is not None:
            task.weigh(logits[span.start : span.stop])
    constrained = [(task, span) for task, span in spans if task.matcher is not None]
    if constrained:
        mask = torch.full((len(logits), (logits.shape[-1] + 31) // 32), -1, dtype=torch.int32)
        for task, span in constrained:
            task.guard(task.fill, mask, span.start)
        apply_mask(logits, mask.to(logits.device), [row for _, span in constrained for row in span])
    draws = [draw for task, span in spans for draw in task.draws(len(span))]
    return Drawn(spans, sample(logits, draws))
