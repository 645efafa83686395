"""When a CPU computes in bfloat16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weft
from weft.runtime.llm.config import Experts, ModelConfig, read_config
from weft.runtime.llm.cpu import bfloat16
from weft.runtime.llm.loader import choose_dtype

MODEL_FOLDER = Path(weft.__path__[0]) / "apps" / "reference_model" / "model"
CPU = torch.device("cpu")


@pytest.fixture
def small() -> ModelConfig:
    return read_config(MODEL_FOLDER)


@pytest.fixture
def large(small: ModelConfig) -> ModelConfig:
    return replace(small, hidden_size=1024, intermediate_size=2048)


@pytest.fixture(params=[0.5, 1.2, 2.0, 8.0])
def ratio(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How many times as fast products are in bfloat16."""
    ratio: float = request.param
    monkeypatch.setattr(bfloat16, "_seconds", lambda _, dtype: 1.0 if dtype == torch.bfloat16 else ratio)
    return ratio


def test_small_models_answer_alike_on_all_cpus(small: ModelConfig, ratio: float) -> None:
    assert small.dtype == "bfloat16"
    assert choose_dtype("auto", small, CPU) == torch.float32


def test_large_models_take_what_is_clearly_faster(large: ModelConfig, ratio: float) -> None:
    assert choose_dtype("auto", large, CPU) == (torch.bfloat16 if ratio >= 2 else torch.float32)


def test_many_experts_are_large_and_one_of_them_is_timed(
    small: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = set()

    def seconds(shape: tuple[int, int], dtype: torch.dtype) -> float:
        timed.add(shape)
        return 1.0 if dtype == torch.bfloat16 else 8.0

    monkeypatch.setattr(bfloat16, "_seconds", seconds)
    every = frozenset(range(small.layers))
    experts = Experts(every, count=128, chosen=8, intermediate_size=768, normalized=True)
    config = replace(small, hidden_size=2048, intermediate_size=6144, experts=experts)
    assert choose_dtype("auto", config, CPU) == torch.bfloat16
    assert timed == {(1536, 2048)}


def test_a_checkpoint_in_float32_stays_so(large: ModelConfig, ratio: float) -> None:
    assert choose_dtype("auto", replace(large, dtype="float32"), CPU) == torch.float32
