"""The implementations of a model compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from weft.runtime.llm.config import read_config
from weft.runtime.llm.cpu.model import CpuModel
from weft.runtime.llm.fused import FusedModel
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.gpu.runner import GpuRunner
from weft.runtime.llm.loader import load_weights
from weft.runtime.llm.model_base import Model
from weft.runtime.llm.runner import ModelRunner, Runner, Work
from weft.runtime.llm.sequence import Sequence


def build(kind: type[CpuModel | FusedModel | GpuModel], checkpoint: Any) -> Model:
    config = read_config(checkpoint.folder)
    weights = load_weights(checkpoint.folder, config, dtype=torch.float32, device=torch.device("cpu"))
    return kind(config, weights, name="m")


def logits(runner: Runner) -> torch.Tensor:
    """Of two prompts, then of the rest of one of them beside decodes of the other's continuations."""
    slots = np.random.default_rng(0).permutation(400)
    work: list[Work] = []
    for index, (length, new) in enumerate(((40, 40), (60, 31), (29, 29), (5, 5), (70, 70), (33, 1))):
        sequence = Sequence(np.arange(3 + index, 3 + index + length), length)
        sequence.extend(slots[index * 70 : index * 70 + length])
        work.append((sequence, new))
    found = [runner.run(work, [39, 70]).clone()]
    for sequence, new in work:
        sequence.computed = new
    rest = [(sequence, sequence.remaining) for sequence, _ in work if sequence.remaining]
    found.append(runner.run(rest, list(range(sum(count for _, count in rest)))).clone())
    for sequence, _ in work:
        sequence.computed = sequence.length - 1
    found.append(runner.run([(sequence, 1) for sequence, _ in work], list(range(len(work)))))
    return torch.cat(found)


def test_the_cpu_model_computes_what_the_kernels_do(
    family: str, make_checkpoint: Callable[[str], Any]
) -> None:
    checkpoint = make_checkpoint(family)
    kinds: list[type[CpuModel | FusedModel | GpuModel]] = [FusedModel, CpuModel, GpuModel]
    fused, cpu, gpu = (logits(ModelRunner(build(kind, checkpoint), 400)) for kind in kinds)
    assert fused.std() > 0.5
    torch.testing.assert_close(cpu, fused, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(gpu, fused, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("max_running", [2, 256])
def test_a_table_on_the_device_changes_nothing(
    family: str, max_running: int, make_checkpoint: Callable[[str], Any]
) -> None:
    """On a GPU, with room for many, few tokens of prompts are computed like decodes."""
    model = build(GpuModel, make_checkpoint(family))
    assert isinstance(model, GpuModel)
    plain, tabled = logits(ModelRunner(model, 400)), logits(GpuRunner(model, 400, max_running=max_running))
    torch.testing.assert_close(tabled, plain, atol=2e-4, rtol=1e-4)
