"""Models of known shapes, made small, and how fast a device could be with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engines import models
from engines.models import SHAPES, config_of, random_model
from gpus.ceilings import layers_weights, roofline
from gpus.starting import write_checkpoint

from weft.runtime.llm.config import SUPPORTED
from weft.runtime.llm.runner import ModelRunner
from weft.runtime.llm.sequence import Sequence

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones of each family with experts."""
    qwen = {"num_experts": 8, "moe_intermediate_size": 24, "decoder_sparse_step": 2}
    mixed = {"num_local_experts": 4}
    kinds = {
        "qwen2_moe": ("Qwen2MoeConfig", qwen | {"shared_expert_intermediate_size": 48}),
        "qwen3_moe": ("Qwen3MoeConfig", qwen),
        "mixtral": ("MixtralConfig", mixed),
    }
    small = {name: (kind, SMALL | fields) for name, (kind, fields) in kinds.items()}
    monkeypatch.setattr(models, "SHAPES", small)


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_shape_is_one_that_weft_computes(name: str) -> None:
    written = config_of(name)
    assert SUPPORTED[written["architectures"][0]] == written["model_type"]


@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_model_with_experts_has_what_a_step_is_counted_to_read(name: str) -> None:
    model = random_model(name, torch.float32, CPU)
    sequence = Sequence(torch.arange(3, 20).numpy(), 17)
    sequence.extend(torch.arange(17).numpy())
    logits = ModelRunner(model, 17).run([(sequence, 17)], [16])
    assert logits.isfinite().all()
    held = 0
    for layer in model._layers:
        parts: list[Any] = [layer.qkv.weight, layer.out.weight, *vars_of(layer.feed_forward)]
        held += sum(part.numel() for part in parts)
    read, used = layers_weights(model.config, 10_000)
    gates = 64 if name == "qwen2_moe" else 0  # the router's row of a shared expert is not counted
    assert read == pytest.approx(held - gates)
    assert layers_weights(model.config, 1) == pytest.approx((used, used))
    assert used < read


def vars_of(layer: Any) -> list[torch.Tensor]:
    """The matrices of a feed-forward layer, dense or of experts."""
    found = [layer.gate_up, layer.down]
    if hasattr(layer, "router"):
        return [*found, layer.router]
    return [projection.weight for projection in found]


def test_more_tokens_go_through_more_experts() -> None:
    """A token takes 8 of 128, and two tokens on average half an expert less than 16."""
    config = models._read("qwen3-30b-a3b", None)
    each = 48 * 3 * 2048 * 768
    one, two, many = (layers_weights(config, batch)[0] for batch in (1, 2, 10_000))
    assert two - one == pytest.approx(each * (8 - 8 * 8 / 128))
    assert many - one == pytest.approx(each * 120)
    model: Any = SimpleNamespace(
        config=config, fp8=False, int4=False, dtype=torch.bfloat16, kv_bytes_per_token=48 * 2 * 4 * 128 * 2
    )
    read = 2 * (one + 151936 * 2048) + 1000 * model.kv_bytes_per_token
    assert roofline(model, 1, 1000, 3e12, 1e18) == pytest.approx(3e12 / read)
    ends = 2 * 151936 * 2048  # with which its publishers count 30.5e9 parameters, of which 3.3e9 are used
    assert many + ends == pytest.approx(30.5e9, rel=2e-3)
    assert one + ends == pytest.approx(3.3e9, rel=2e-2)


def test_starting_is_measured_with_dense_models(tmp_path: Any) -> None:
    with pytest.raises(SystemExit, match="mixtral-8x7b has experts"):
        write_checkpoint("mixtral-8x7b", tmp_path)


def test_experts_are_not_measured_in_four_bits() -> None:
    with pytest.raises(SystemExit, match="mixtral-8x7b has experts"):
        models.random_model("mixtral-8x7b", torch.float32, torch.device("cpu"), quantization="int4")
