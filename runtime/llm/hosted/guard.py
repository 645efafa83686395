"""A trial at the start: a model that would not compute what its own code does is not served."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from weft.runtime.cuda import on_device

from ..gpu.device_model import DeviceModel
from ..gpu.runner import GpuRunner
from ..model_base import Model
from ..runner import ModelRunner, Runner, Work
from ..sequence import Sequence
from .code import HostedCode
from .probe import RefusedError

__all__ = ["check"]

_LENGTHS: Final = (29, 17)  # tokens of the prompts, of which a window hides some if it is at most
_LONGEST: Final = 96
_CAPTURED: Final = 64  # tokens, of which the least graph of a step with prompts is
_TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Of the deviation of a token's logits, relative to their spread, in the median of a prompt's tokens."""


def check(model: Model, code: HostedCode) -> None:
    """Compute two random prompts in chunks, and their last tokens as decodes, in one batch as an engine does.

    Steps are run by CUDA graphs if these may hold them. Raises `RefusedError` if the logits are not those of
    each prompt by itself, at once, by the code's own attention.
    """
    shortest = min((layer.window for layer in code.layers if layer.window is not None), default=0)
    longest = min(max(_LENGTHS[0], shortest + 8), _LONGEST, model.config.context_length)
    random = np.random.default_rng(0)
    prompts = [
        random.integers(0, model.config.vocab_size, min(length, longest)) for length in (longest, _LENGTHS[1])
    ]
    with on_device(model.device):
        computed = _paged(model, prompts)
    for prompt, found in zip(prompts, computed, strict=True):
        expected = code.eager(torch.from_numpy(prompt).to(code.device))
        spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
        deviation = float(((found - expected).norm(dim=-1) / spread.clamp(min=1e-9)).median())
        if not deviation <= _TOLERANCE[model.dtype]:
            raise RefusedError(
                f"something that depends on how a batch is laid out, such as recurrent layers: in a trial "
                f"with two prompts the logits were {deviation:.1%} off those of its own attention"
            )


def _paged(model: Model, prompts: list[np.ndarray]) -> list[torch.Tensor]:
    """The logits of each prompt, [tokens, vocab]."""
    slots = np.random.default_rng(1).permutation(sum(map(len, prompts)))
    runner: Runner
    if isinstance(model, DeviceModel):
        runner = GpuRunner(model, len(slots), max_running=len(prompts), token_budget=_CAPTURED, sharing=False)
    else:
        runner = ModelRunner(model, len(slots))
    sequences = []
    for prompt in prompts:
        sequence = Sequence(prompt, len(prompt))
        sequence.extend(slots[: len(prompt)])
        slots = slots[len(prompt) :]
        sequences.append(sequence)
    parts: list[list[torch.Tensor]] = [[] for _ in prompts]
    for until in (0.4, 1.0, None):
        work = [(sequence, _next(sequence, until)) for sequence in sequences]
        for index, logits in enumerate(_step(runner, work)):
            parts[index].append(logits)
    runner.close()
    return [torch.cat(part) for part in parts]


def _next(sequence: Sequence, until: float | None) -> int:
    """How many tokens bring a sequence to a share of all but its last one; the last one if None."""
    return 1 if until is None else int(until * (sequence.length - 1)) - sequence.computed


def _step(runner: Runner, work: list[Work]) -> list[torch.Tensor]:
    counts = [count for _, count in work]
    logits = runner.run(work, list(range(sum(counts)))).clone()
    for sequence, count in work:
        sequence.computed += count
    return list(torch.split(logits, counts))
