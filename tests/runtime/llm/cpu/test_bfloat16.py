"""When a CPU computes in bfloat16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weft
from weft.runtime.llm.config import ModelConfig, read_config
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


def test_a_checkpoint_in_float32_stays_so(large: ModelConfig, ratio: float) -> None:
    assert choose_dtype("auto", replace(large, dtype="float32"), CPU) == torch.float32
