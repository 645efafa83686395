"""Which logits a step needs, and what is drawn from them."""

from __future__ import annotations

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
    draws: list[tuple[GenerateTask, int]] = field(default_factory=list)  # a row each
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
            layout.draws.append((task, first))
        elif isinstance(task, ScoreTask):
            layout.scores.append((task, chunk, slice(first, len(layout.rows))))
    return layout


def draw_tokens(layout: Layout, logits: torch.Tensor) -> list[tuple[GenerateTask, int]]:
    """Sample a token for each decode, grammars obeyed; a task whose grammar fails is marked and left out.

    `logits` [rows, vocab] may be changed.
    """
    drawing = [(task, row) for task, row in layout.draws if not task.done]
    if layout.scores or len(drawing) < len(layout.draws):
        logits = logits[[row for _, row in drawing]]
    tasks = [task for task, _ in drawing]
    for row, task in enumerate(tasks):
        if task.logprobs is not None:
            task.weigh(logits[row])
    constrained = [index for index, task in enumerate(tasks) if task.matcher is not None]
    if constrained:
        mask = torch.full((len(tasks), (logits.shape[-1] + 31) // 32), -1, dtype=torch.int32)
        for index in constrained:
            tasks[index].guard(tasks[index].fill, mask, index)
        apply_mask(logits, mask.to(logits.device), constrained)
    if not tasks:
        return []
    tokens = sample(logits, [task.draw() for task in tasks]).tolist()
    return [(task, token) for task, token in zip(tasks, tokens, strict=True) if not task.done]
