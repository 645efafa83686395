"""The training: steps over the data, checkpoints to go on from, and the model at the end."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from .encoder import MODEL
from .feed import FIRST_HELD_OUT, Feed, shard
from .network import Network, Shape, dense_mask, export, may_attend, reach, token_losses
from .optimizers import Optimizers
from .rows import DOCUMENT, FIRST_TASK, ROW
from .samples import TASKS

__all__ = ["CHECKPOINT", "FULL", "SMOKE", "Plan", "PlanMismatch", "device", "learnt", "train"]

CHECKPOINT: Final = "checkpoint.pt"
_DOCUMENT_WEIGHTS: Final = 0.1, 0.003
"""At the beginning, when reading has to be learnt, and at the end. Names in documents are drawn at random:
once the model reads, most of the gradient of their text is noise, and they have many times more tokens than
the replies that are still wrong."""
_TASK_WEIGHT: Final = {
    "expand": 0.5,
    "summarize": 0.5,
    "agent": 0.6,
    "absent": 1.5,
    "two_hops": 2.0,
    "alias": 1.5,
    "outline": 0.7,
    "judge": 3.0,
    "relevance": 3.0,
}
"""Of one token in the loss: single words count for more, long replies for less; 1 for others."""
_CODES: Final = FIRST_TASK + len(TASKS)
_LEARNT: Final = 0.25
"""Of the tokens of a batch, so many have their loss computed, those of documents only as far as there is room
beside the replies: scores over the vocabulary are dear, and replies are a tenth of the tokens."""
_GOLDEN: Final = 0.6180339887498949
_TURN: Final = 0.7548776662466927
"""Multiples of these, without their whole parts, fill the numbers from 0 to 1 evenly."""
_LOG_EVERY: Final = 500
_TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class PlanMismatch(ValueError):
    """A checkpoint is of another training."""


@dataclass(frozen=True)
class Plan:
    """A whole training, which may be done in pieces."""

    steps: int
    rows: int
    """A step, of `length` tokens each."""
    length: int = ROW
    seed: int = 1
    shape: Shape = field(default_factory=Shape)
    held_out: int = 192
    """Rows of worlds never seen, for the figures in the log."""


FULL: Final = Plan(steps=40_000, rows=32)
"""2.62 billion tokens, 17 minutes of an H100."""
SMOKE: Final = Plan(steps=24, rows=4, length=512, shape=Shape(width=64, layers=2, hidden=128), held_out=4)
"""The same in little, for half a minute of a CPU."""


def device() -> torch.device:
    """Where to train and to evaluate: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    plan: Plan,
    folder: Path,
    *,
    minutes: float,
    workers: int,
    log: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Train for so many minutes, from the checkpoint in the folder if there is one.

    Afterwards the folder holds a checkpoint or, if the training is at its end (True), the model too.
    """
    begun = clock()
    place = device()
    torch.manual_seed(plan.seed)
    torch.set_float32_matmul_precision("high")
    folder.mkdir(parents=True, exist_ok=True)
    network = Network(plan.shape).to(place)
    optimizers = Optimizers(network)
    step = _resume(plan, network, optimizers, folder / CHECKPOINT)
    stepper = _Stepper(network, plan, place)
    log(f"{sum(p.numel() for p in network.parameters()):,} parameters, {place}, {asdict(plan)}")
    with Feed(
        seed=plan.seed,
        steps=plan.steps,
        first=step,
        rows=plan.rows,
        workers=workers,
        device=place,
        length=plan.length,
    ) as feed:
        compiled = step + 10  # what takes time before does not count as speed
        started = clock()
        while step < plan.steps and clock() < begun + 60 * minutes:
            progress = step / plan.steps
            stepper.backward(feed.next(), progress)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizers.step(progress)
            step += 1
            if step == compiled:
                started = clock()
            elif step % _LOG_EVERY == 0:
                rate = (step - compiled) * plan.rows * plan.length / (clock() - started)
                spent = clock() - begun
                log(
                    f"{spent:5.0f} s, step {step}, {rate / 1e6:.2f}M tokens/s, {feed.waits} waits: "
                    f"{stepper.losses()}"
                )
        seconds = clock() - begun
    _save(plan, network, optimizers, step, folder / CHECKPOINT)
    log(f"{seconds:5.0f} s, step {step} of {plan.steps}; exact match: {json.dumps(stepper.exact())}")
    done = step == plan.steps
    if done:
        export(network, folder)
        for name in _TOKENIZER:
            shutil.copyfile(MODEL / name, folder / name)
    return done


def _resume(plan: Plan, network: Network, optimizers: Optimizers, path: Path) -> int:
    """Restore a checkpoint; the number of steps that were done."""
    if not path.exists():
        return 0
    kept = torch.load(path, map_location="cpu", weights_only=True)
    if kept["plan"] != asdict(plan):
        raise PlanMismatch(f"{path} is of another training, {kept['plan']}; train in another folder")
    network.load_state_dict(kept["weights"])
    optimizers.restore(kept["optimizers"])
    return int(kept["step"])


def _save(plan: Plan, network: Network, optimizers: Optimizers, step: int, path: Path) -> None:
    """Write a checkpoint; one that was there before is replaced only when this one is whole."""
    kept: dict[str, Any] = {
        "plan": asdict(plan),
        "step": step,
        "weights": network.state_dict(),
        "optimizers": optimizers.state(),
    }
    new = path.with_suffix(".new")
    torch.save(kept, new)
    os.replace(new, path)


def learnt(codes: Tensor, count: int, turn: float) -> Tensor:
    """Which `count` of the tokens with these codes (tokens,) a step learns from, as their places.

    Replies come first, then documents, of which every turn takes others, then what has no loss.
    """
    places = torch.arange(codes.numel(), device=codes.device, dtype=torch.float64)
    spread = torch.frac(places * _GOLDEN + turn * _TURN).float()
    return (spread + (codes >= DOCUMENT) + (codes >= FIRST_TASK)).topk(count, sorted=False).indices


class _Stepper:
    """Passes over packed rows, compiled where there is a GPU."""

    def __init__(self, network: Network, plan: Plan, device: torch.device) -> None:
        self._network = network
        self._plan = plan
        self._device = device
        weights = [0.0, _DOCUMENT_WEIGHTS[0]] + [_TASK_WEIGHT.get(task, 1.0) for task in TASKS]
        self._weights = torch.tensor(weights, device=device)
        self._sums = torch.zeros((2, _CODES), device=device)
        self._reach = torch.zeros((3, plan.rows, plan.length), dtype=torch.int32, device=device)
        self._forward: Callable[..., Tensor] = network
        self._losses: Callable[..., Tensor] = token_losses
        self._make_mask: Callable[..., Any] | None = None
        if device.type == "cuda":
            from torch.nn.attention.flex_attention import create_block_mask

            self._make_mask = torch.compile(create_block_mask)
            self._losses = torch.compile(token_losses, dynamic=False)
            self._forward = torch.compile(network, dynamic=False)
            self._see = may_attend(self._reach)

    def backward(self, batch: Tensor, progress: float) -> None:
        """Add the gradients of a batch (rows, 4, tokens); `progress` is how much of the training is done."""
        targets, codes = (torch.roll(batch[:, i], -1, dims=1).long() for i in (0, 3))
        codes[:, -1] = 0  # the last token of a row has no next one
        codes = codes.flatten()
        places = learnt(codes, int(codes.numel() * _LEARNT), progress * self._plan.steps)
        chosen = codes[places]
        with self._autocast():
            hidden = self._hidden(batch).flatten(0, 1).index_select(0, places)
            losses = self._losses(hidden, self._network.embedding, targets.flatten()[places])
        first, last = _DOCUMENT_WEIGHTS
        left_out = (codes == DOCUMENT).sum() / (chosen == DOCUMENT).sum().clamp(min=1)
        self._weights[DOCUMENT] = first * (last / first) ** progress * left_out
        weights = self._weights[chosen]
        torch.autograd.backward((losses * weights).sum() / weights.sum())
        losses = losses.detach()
        self._sums[0].scatter_add_(0, chosen, losses)
        self._sums[1].scatter_add_(0, chosen, torch.ones_like(losses))

    def losses(self) -> str:
        """The mean loss of a token of each task since the last call."""
        means = (self._sums[0] / self._sums[1].clamp(min=1)).tolist()
        self._sums.zero_()
        named = zip(("documents", *TASKS), means[1:], strict=True)
        return ", ".join(f"{name} {mean:.3f}" for name, mean in named)

    def exact(self) -> dict[str, float]:
        """Percent of replies about worlds never seen of which every token is the likeliest, by task."""
        plan = self._plan
        held_out = shard(FIRST_HELD_OUT, plan.held_out, progress=1.0, length=plan.length)
        right = np.zeros((_CODES, 2))
        for rows in torch.split(torch.from_numpy(held_out.astype(np.int32)), plan.rows):
            if len(rows) == plan.rows:
                for code, exact in self._exact(rows.to(self._device)):
                    right[code] += exact, 1
        counted = zip(TASKS, right[FIRST_TASK:], strict=True)
        return {task: round(100 * exact / count, 1) for task, (exact, count) in counted if count}

    def _exact(self, batch: Tensor) -> list[tuple[int, bool]]:
        """For every branch: the code of its task, and whether greedy decoding would be right."""
        with self._autocast():  # with gradients, so that nothing is compiled again
            hidden = self._hidden(batch).detach()
            best = torch.cat([self._network.logits(part).argmax(-1) for part in torch.split(hidden, 4)])
        wrong = (best[:, :-1] != batch[:, 0, 1:]).cpu().numpy()
        codes, groups = batch[:, 3, 1:].cpu().numpy(), batch[:, 2, 1:].cpu().numpy()
        results: list[tuple[int, bool]] = []
        for row in range(len(codes)):
            said = codes[row] > DOCUMENT
            _, first, of = np.unique(groups[row][said], return_index=True, return_inverse=True)
            errors = np.bincount(of, wrong[row][said])
            results += zip(codes[row][said][first].tolist(), (errors == 0).tolist(), strict=True)
        return results

    def _hidden(self, batch: Tensor) -> Tensor:
        groups = batch[:, 2]
        if self._make_mask is None:
            return self._forward(batch[:, 0], batch[:, 1], dense_mask(groups))
        self._reach.copy_(reach(groups))
        rows, size = groups.shape
        mask = self._make_mask(self._see, rows, None, size, size, device=self._device.type)
        return self._forward(batch[:, 0], batch[:, 1], mask)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda")
