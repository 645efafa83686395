"""Which logits a step needs, and what is drawn from them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from weft.kernels.sampling import sample

from .grammar import apply_mask
from .planner import Chunk
from .tasks import GenerateTask, ScoreTask, Task

__all__ = ["Layout", "draw_tokens", "lay_out"]


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


def draw_tokens(layout: Layout, logits: torch.Tensor) -> list[tuple[GenerateTask, list[int]]]:
    """Sample for each decode a token behind its last one and behind each of its draft, grammars obeyed.

    A task whose grammar fails is marked and left out.

    `logits` [rows, vocab] may be changed.
    """
    drawing = [(task, rows) for task, rows in layout.draws if not task.done]
    if not drawing:
        return []
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
    tokens = sample(logits, draws).tolist()
    return [(task, tokens[span.start : span.stop]) for task, span in spans if not task.done]
