"""Checkpoints in 8 bits, models that compute in them, and what is said where neither can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.kernels.fp8 import FP8, Fp8Matrix
from weft.runtime.config import REFERENCE_MODEL, ModelSettings
from weft.runtime.llm.config import read_config
from weft.runtime.llm.errors import ModelError
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.kv_layout import kv_layout
from weft.runtime.llm.loader import load_weights
from weft.runtime.llm.model import load_model
from weft.runtime.llm.parallel.shard import WHOLE, Shard
from weft.runtime.llm.quantization import Quantization, choose_quantization, dequantize
from weft.runtime.worker.engines.base import StartError
from weft.runtime.worker.engines.llm_loading import load

from .test_loader import edit_json, edit_tensors, logits, shorten_tensor

Form = Literal["one", "rows", "blocks"]
CPU = torch.device("cpu")
BLOCK = (16, 24)  # which divides none of the widths, 64 and 96
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8, "strategy": "channel"}}},
    "ignore": ["lm_head"],
}
CONFIGS: dict[Form, dict[str, Any]] = {
    "one": {"quant_method": "fp8", "activation_scheme": "static"},
    "rows": COMPRESSED,
    "blocks": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(BLOCK)},
}


@pytest.fixture
def plain(make_checkpoint: Callable[[str], Any], tmp_path: Path) -> Path:
    """A copy of a small checkpoint in float32."""
    return Path(shutil.copytree(make_checkpoint("llama3_rope").folder, tmp_path / "plain"))


def quantized(plain: Path, form: Form) -> Path:
    """The checkpoint in 8 bits; `plain` then has what these stand for."""
    folder = Path(shutil.copytree(plain, plain.with_name(form)))
    suffix = "weight_scale_inv" if form == "blocks" else "weight_scale"
    tensors, given_back = load_file(plain / "model.safetensors"), {}
    for name, weight in list(tensors.items()):
        given_back[name] = weight
        if "_proj." in name:
            factors = factors_of(weight, form)
            tensors[name] = (weight / expanded(weight, factors)).to(FP8)
            tensors[name.removesuffix("weight") + suffix] = factors
            given_back[name] = tensors[name].float() * expanded(weight, factors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(given_back, plain / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", lambda config: config.update(quantization_config=CONFIGS[form]))
    return folder


def factors_of(weight: torch.Tensor, form: Form) -> torch.Tensor:
    if form == "one":
        return (weight.abs().max() / 448).reshape(1)
    if form == "rows":
        return weight.abs().amax(1, keepdim=True) / 448
    rows, columns = weight.shape
    bands = torch.split(weight, BLOCK[0], 0)
    tiles = [[tile.abs().max() for tile in torch.split(band, BLOCK[1], 1)] for band in bands]
    assert (len(tiles), len(tiles[0])) == (-(-rows // BLOCK[0]), -(-columns // BLOCK[1]))
    return torch.tensor(tiles) / 448


def expanded(weight: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The factor of each element, found one by one."""
    if factors.shape[-1] == 1:
        return factors.expand_as(weight)
    rows, columns = weight.shape
    return torch.stack(
        [torch.stack([factors[i // BLOCK[0], j // BLOCK[1]] for j in range(columns)]) for i in range(rows)]
    )


@pytest.mark.parametrize("form", ["one", "rows", "blocks"])
def test_a_checkpoint_in_eight_bits_is_given_back_its_numbers(plain: Path, form: Form) -> None:
    folder = quantized(plain, form)
    for native in (True, False):
        read, expected = (
            load_model(each, dtype="float32", device="cpu", native=native) for each in (folder, plain)
        )
        assert read.numbers == "float32"
        torch.testing.assert_close(logits(read), logits(expected), atol=0, rtol=0)


def test_factors_may_be_called_otherwise_and_lie_in_a_file_of_their_own(plain: Path) -> None:
    folder = quantized(plain, "one")
    tensors = load_file(folder / "model.safetensors")
    factors = {name: tensors.pop(name) for name in list(tensors) if name.endswith("_scale")}
    parts = {
        "a.safetensors": tensors,
        "b.safetensors": {f"{name}_inv": factor.reshape(()).bfloat16() for name, factor in factors.items()},
    }
    (folder / "model.safetensors").unlink()
    for file, part in parts.items():
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    read = load_weights(folder, read_config(folder), dtype=torch.float32, device=CPU)
    expected = load_weights(plain, read_config(plain), dtype=torch.float32, device=CPU)
    for mine, other in zip(read.layers, expected.layers, strict=True):
        torch.testing.assert_close(mine.down, other.down, atol=0, rtol=2**-8)  # as the factors are rounded


@pytest.mark.parametrize("shard", [WHOLE, Shard(0, 2), Shard(1, 2)])
def test_parts_of_it_are_cut_as_of_any_other(plain: Path, shard: Shard) -> None:
    folder = quantized(plain, "blocks")
    read, expected = (
        load_weights(each, read_config(each), dtype=torch.float32, device=CPU, shard=shard)
        for each in (folder, plain)
    )
    for mine, other in zip(read.layers, expected.layers, strict=True):
        for tensor, wanted in zip(astuple(mine), astuple(other), strict=True):
            assert (tensor is None) == (wanted is None)
            assert tensor is None or torch.equal(tensor, wanted)


def gpu_model(folder: Path, *, fp8: bool) -> GpuModel:
    config = read_config(folder)
    weights = load_weights(folder, config, dtype=torch.float32, device=CPU)
    return GpuModel(config, weights, name="m", fp8=fp8)


@pytest.mark.parametrize("name", ["llama3_rope", "qwen2", "qwen3"])
def test_a_model_in_eight_bits_says_nearly_the_same(make_checkpoint: Callable[[str], Any], name: str) -> None:
    folder = make_checkpoint(name).folder
    exact, near = gpu_model(folder, fp8=False), gpu_model(folder, fp8=True)
    assert (exact.numbers, near.numbers) == ("float32", "fp8 and float32")
    expected, found = logits(exact), logits(near)
    assert torch.cosine_similarity(expected, found).min() > 0.97
    assert not torch.equal(expected, found)
    assert kv_layout(folder, exact) != kv_layout(folder, near), "their KV is not each other's"


def test_numbers_with_a_factor_for_each_row_stay_those_of_the_checkpoint(plain: Path) -> None:
    folder = quantized(plain, "rows")
    config, tensors = read_config(folder), load_file(folder / "model.safetensors")
    weights = load_weights(folder, config, dtype=torch.bfloat16, device=CPU)
    for number, layer in enumerate(weights.layers):
        name = f"model.layers.{number}.mlp.down_proj.weight"
        matrix = Fp8Matrix.of(layer.down)
        assert torch.equal(matrix.values.float(), tensors[name].float())
        torch.testing.assert_close(matrix.factors, tensors[f"{name}_scale"], atol=0, rtol=2**-8)


def test_widths_without_a_product_in_eight_bits_are_refused(plain: Path) -> None:
    def narrow(tensors: dict[str, Any]) -> None:
        for name in tensors:
            if "mlp.gate" in name or "mlp.up" in name:
                tensors[name] = tensors[name][:72].contiguous()
            elif "mlp.down" in name:
                tensors[name] = tensors[name][:, :72].contiguous()

    edit_tensors(plain, narrow)
    edit_json(plain / "config.json", lambda config: config.update(intermediate_size=72))
    with pytest.raises(ModelError, match=r"multiples of 16, .* matrix of 64 x 72: set quantization = 'none'"):
        gpu_model(plain, fp8=True)


def test_a_device_without_such_units_is_refused_and_auto_does_without(plain: Path) -> None:
    assert choose_quantization("auto", "fp8", CPU) == "none"
    assert choose_quantization("none", "fp8", CPU) == "none"
    with pytest.raises(ModelError, match=r"compute capability 8\.9 or newer, and cpu is none"):
        load_model(plain, device="cpu", quantization="fp8")
    settings = ModelSettings(name="m", path=str(REFERENCE_MODEL), device="cpu", quantization="fp8")
    with pytest.raises(StartError, match="model 'm': quantization 'fp8' takes an NVIDIA GPU"):
        load(settings, 0)
    with pytest.raises(ModelError, match="transformers, which takes no quantization"):
        load_model(plain, device="cpu", quantization="fp8", code="transformers")


@pytest.mark.parametrize(
    ("wanted", "published", "capability", "chosen"),
    [
        ("auto", "fp8", (8, 9), "fp8"),
        ("auto", "fp8", (8, 6), "none"),
        ("auto", "none", (9, 0), "none"),
        ("none", "fp8", (9, 0), "none"),
        ("fp8", "none", (12, 0), "fp8"),
        ("fp8", "int4", (9, 0), "fp8"),
        ("auto", "int4", (8, 0), "int4"),
        ("auto", "int4", (7, 5), "none"),
        ("none", "int4", (9, 0), "none"),
        ("int4", "none", (8, 6), "int4"),
    ],
)
def test_a_gpu_with_such_units_is_used_for_what_is_in_eight_bits(
    wanted: Quantization,
    published: Quantization,
    capability: tuple[int, int],
    chosen: Quantization,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_quantization(wanted, published, torch.device("cuda", 1)) == chosen


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "hqq", "bits": 4}, "its quantization, 'hqq', is not supported: weights in fp8"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "its quantization, 'fp8', is not supported"),
        (
            COMPRESSED | {"format": "marlin-24"},
            "its quantization, 'compressed-tensors', is not supported",
        ),
        (
            COMPRESSED | {"config_groups": {"g": {"weights": {"type": "int", "num_bits": 8}}}},
            "its quantization, 'compressed-tensors', is not supported",
        ),
        (COMPRESSED | {"config_groups": None}, "its quantization, 'compressed-tensors', is not supported"),
    ],
)
def test_other_quantizations_are_named(plain: Path, said: dict[str, Any], message: str) -> None:
    edit_json(plain / "config.json", lambda config: config.update(quantization_config=said))
    with pytest.raises(ModelError, match=f"config.json of .*plain': {message}"):
        load_model(plain, device="cpu")


def test_what_a_checkpoint_in_eight_bits_lacks_is_named(plain: Path) -> None:
    folder = quantized(plain, "blocks")
    name = "model.layers.1.mlp.down_proj.weight_scale_inv"
    shorten_tensor(folder, name)
    with pytest.raises(ModelError, match=rf"tensor '{name}' .* has \[1, \d\] factors; for blocks of 16 x 24"):
        load_model(folder, device="cpu")
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=f"lacks the tensor '{name.removesuffix('_inv')}' or '{name}'"):
        load_model(folder, device="cpu")
    edit_json(folder / "config.json", lambda config: config.pop("quantization_config"))
    with pytest.raises(ModelError, match=r"is in 8 bits, of which config\.json says nothing"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("blocks", [[128], [0, 128], "128x128", 128])
def test_blocks_that_are_none_are_named(plain: Path, blocks: Any) -> None:
    said = {"quant_method": "fp8", "weight_block_size": blocks}
    edit_json(plain / "config.json", lambda config: config.update(quantization_config=said))
    with pytest.raises(ModelError, match="the blocks of its quantization must be two positive integers, not"):
        load_model(plain, device="cpu")


def test_blocks_that_hang_over_are_cut() -> None:
    values = torch.ones(3, 5).to(FP8)
    factors = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    expected = torch.tensor([[1, 1, 2, 2, 3], [1, 1, 2, 2, 3], [4, 4, 5, 5, 6]]).float()
    assert torch.equal(dequantize(values, factors, (2, 2)), expected)


def test_a_table_with_as_many_factors_as_rows_is_none_of_rows() -> None:
    factors = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = torch.tensor([[1, 1, 2], [1, 1, 2], [3, 3, 4], [3, 3, 4]]).float()
    assert torch.equal(dequantize(torch.ones(4, 3).to(FP8), factors, (2, 2)), expected)
