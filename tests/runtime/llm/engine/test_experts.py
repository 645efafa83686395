"""Mixtures of experts: what checkpoints say of them and hold, and which code takes them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.kernels.fp8 import FP8
from weft.runtime.llm.config import Experts, VariantError, read_config
from weft.runtime.llm.cpu.model import CpuModel
from weft.runtime.llm.errors import ModelError
from weft.runtime.llm.fused import FusedModel
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.hosted.model import HostedModel
from weft.runtime.llm.loader import load_weights
from weft.runtime.llm.model import load_model

from .loading import load_as
from .test_loader import edit_json, edit_tensors, logits

CPU = torch.device("cpu")
MOE = Experts(frozenset((0, 1)), count=8, chosen=3, intermediate_size=32, normalized=True)


@pytest.fixture
def copied(make_checkpoint: Callable[[str], Any], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a small checkpoint that may be spoiled."""

    def copy(family: str) -> Path:
        return Path(shutil.copytree(make_checkpoint(family).folder, tmp_path / family))

    return copy


@pytest.mark.parametrize(
    ("fields", "experts"),
    [
        ({}, MOE),
        ({"num_local_experts": None, "num_experts": 6}, replace(MOE, count=6)),
        ({"norm_topk_prob": None}, replace(MOE, normalized=False)),
        ({"decoder_sparse_step": 2}, replace(MOE, layers=frozenset((1,)))),
        ({"decoder_sparse_step": None, "mlp_only_layers": None}, MOE),
        ({"mlp_only_layers": [1]}, replace(MOE, layers=frozenset((0,)))),
    ],
)
def test_what_a_configuration_says(
    copied: Callable[[str], Path], fields: dict[str, Any], experts: Experts
) -> None:
    folder = copied("qwen3_moe")

    def set_fields(config: dict[str, Any]) -> None:
        config.update(fields)
        for name in [name for name, value in config.items() if value is None]:
            del config[name]

    edit_json(folder / "config.json", set_fields)
    assert read_config(folder).experts == experts


def test_a_shared_expert_is_some_that_every_token_goes_through(copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2_moe")
    config = read_config(folder)
    assert config.experts == Experts(
        frozenset((1,)), count=5, chosen=2, intermediate_size=24, normalized=False, shared=2
    )
    dense, mixed = load_weights(folder, config, dtype=torch.float32, device=CPU).layers
    assert dense.router is None
    assert mixed.router is not None
    assert (mixed.router.shape, mixed.gate_up.shape, mixed.down.shape) == ((6, 64), (7, 48, 64), (7, 64, 24))


def test_compiled_steps_leave_them_to_torch(
    copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied("qwen3_moe")
    with caplog.at_level(logging.INFO):
        model = load_model(folder, dtype="float32", device="cpu")
    assert isinstance(model, CpuModel)
    assert "experts are computed by torch's operations, not by compiled steps" in caplog.text
    half = load_model(folder, dtype="bfloat16", device="cpu")
    assert isinstance(half, FusedModel)
    assert torch.cosine_similarity(logits(half), logits(model)) > 0.98


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("qwen3_moe", {"num_experts_per_tok": 9}, "num_experts_per_tok 9 is more than its 8 experts"),
        ("qwen3_moe", {"num_local_experts": 0}, "num_local_experts must be a positive integer, not 0"),
        ("mixtral_sliding", {"num_experts_per_tok": None}, "num_experts_per_tok must be a positive integer"),
        ("qwen3_moe", {"moe_intermediate_size": "x"}, "moe_intermediate_size must be a positive integer"),
    ],
)
def test_impossible_experts_are_named(
    copied: Callable[[str], Path], family: str, fields: dict[str, Any], message: str
) -> None:
    folder = copied(family)
    edit_json(folder / "config.json", lambda config: config.update(fields))
    with pytest.raises(ModelError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"shared_expert_intermediate_size": 40},
            "a shared expert is supported only if it is as wide as some",
        ),
        (
            {"use_sliding_window": True, "sliding_window": 9, "layer_types": None},
            "use_sliding_window is supported only with layer_types",
        ),
    ],
)
def test_variants_are_left_to_transformers(
    copied: Callable[[str], Path], fields: dict[str, Any], message: str
) -> None:
    folder = copied("qwen2_moe")
    edit_json(folder / "config.json", lambda config: config.update(fields))
    with pytest.raises(VariantError, match=message):
        load_model(folder, code="weft")


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mixtral_sliding", "model.layers.1.block_sparse_moe.experts.3.w2.weight"),
        ("mixtral_sliding", "model.layers.0.block_sparse_moe.gate.weight"),
        ("qwen2_moe", "model.layers.1.mlp.shared_expert_gate.weight"),
        ("qwen2_moe", "model.layers.1.mlp.shared_expert.up_proj.weight"),
        ("qwen3_moe", "model.layers.1.mlp.experts.7.gate_proj.weight"),
    ],
)
def test_a_missing_tensor_is_named(copied: Callable[[str], Path], family: str, name: str) -> None:
    folder = copied(family)
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=rf"lacks the tensor '{name}'"):
        load_model(folder, device="cpu")


def test_experts_in_eight_bits(copied: Callable[[str], Path]) -> None:
    """A checkpoint in 8 bits, with a factor for blocks, is read like the numbers that it stands for."""
    folder = copied("qwen3_moe")
    before = logits(load_as("gpu", folder))

    def eight(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if ".experts." in name]:
            factor = tensors[name].abs().max() / 448
            tensors[name] = (tensors[name] / factor).to(FP8)
            tensors[name + "_scale_inv"] = factor.reshape(1, 1)

    edit_tensors(folder, eight)
    edit_json(
        folder / "config.json",
        lambda config: config.update(quantization_config={"quant_method": "fp8"}),
    )
    config = read_config(folder)
    weights = load_weights(folder, config, dtype=torch.float32, device=CPU)
    model = GpuModel(config, weights, name="m", fp8=True)
    assert model.numbers == "fp8 and float32"
    assert 0.95 < torch.cosine_similarity(logits(model), before) < 1 - 1e-6


def test_transformers_code_runs_them_too(make_checkpoint: Callable[[str], Any]) -> None:
    folder = make_checkpoint("qwen3_moe").folder
    hosted = load_model(folder, dtype="float32", device="cpu", code="transformers")
    assert isinstance(hosted, HostedModel)
    torch.testing.assert_close(logits(hosted), logits(load_as("cpu", folder)), atol=2e-4, rtol=1e-4)
