"""Checkpoints in 4 bits, models that compute in them, and what is said of those that cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.graph.sampling import Sampling
from weft.kernels.int4 import Int4Matrix, unpacked
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.config import read_config
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.errors import ModelError
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.kv_layout import kv_layout
from weft.runtime.llm.loader import load_int4_weights, load_weights
from weft.runtime.llm.model import Model, _load_part, load_model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.packing import Packed, read_packed, read_packing
from weft.runtime.llm.parallel.comm import ALONE
from weft.runtime.llm.parallel.shard import WHOLE, Shard
from weft.runtime.llm.requests import Finished, GenerateRequest

from ..checkpoints import make
from .packers import FORMS, Form, packed, rounded
from .test_loader import edit_json, edit_tensors, logits, shorten_tensor

CPU = torch.device("cpu")
MATRICES = ("qkv", "out", "gate_up", "down")

every_form = pytest.mark.parametrize("name", list(FORMS))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A small checkpoint in float32, whose widths are multiples of the groups also in halves."""
    fields = {"intermediate_size": 128, "head_dim": 32, "tie_word_embeddings": False}
    return make("Qwen3Config", fields, tmp_path / "plain").folder


def in_four_bits(folder: Path) -> GpuModel:
    return _load_part(folder, read_config(folder), torch.float32, "int4", CPU, ALONE)


def texts(model: Model) -> list[tuple[int, ...]]:
    """What it writes greedily after some prompts."""
    prompts = [tuple(range(3 + 7 * at, 11 + 9 * at)) for at in range(6)]
    requests = [GenerateRequest(ids, sampling=Sampling(max_tokens=12, ignore_eos=True)) for ids in prompts]
    with LLMEngine(model, None, EngineOptions(kv_tokens=1024)) as engine:
        ends = [events[-1] for events in run_requests(engine, requests, timeout=60)]
    return [end.ids for end in ends if isinstance(end, Finished)]


@every_form
def test_a_checkpoint_in_four_bits_writes_what_its_numbers_do(plain: Path, name: str) -> None:
    folder = packed(plain, FORMS[name])
    expected = load_model(plain, dtype="float32", device="cpu")
    read, kept = load_model(folder, dtype="float32", device="cpu"), in_four_bits(folder)
    assert (read.numbers, kept.numbers) == ("float32", "int4 and float32")
    torch.testing.assert_close(logits(read), logits(expected), atol=0, rtol=0)
    torch.testing.assert_close(logits(kept), logits(expected), atol=1e-4, rtol=1e-4)
    written = texts(expected)
    assert len(set(written)) == len(written) == 6
    assert texts(read) == texts(kept) == written
    assert kv_layout(folder, read) != kv_layout(folder, kept), "their KV is not each other's"


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(FORMS)),
    rows=st.integers(1, 4),
    groups=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_matrices_of_any_shape_are_unpacked(name: str, rows: int, groups: int, seed: int) -> None:
    form = FORMS[name]
    weight = torch.randn(8 * rows, 32 * groups, generator=torch.Generator().manual_seed(seed))
    wanted = rounded(weight, form, seed)
    found = read_packed(packing(form), Stored(form.pack(wanted)), "m", *weight.shape)
    assert torch.equal(found.numbers.int(), wanted.numbers)
    assert torch.equal(found.zeros.int(), wanted.zeros.int())
    assert torch.equal(found.dequantized(), wanted.weight())
    matrix = found.matrix()
    assert matrix.shape == tuple(weight.shape)
    order = torch.arange(weight.shape[1]) if matrix.order is None else matrix.order
    assert torch.equal(unpacked(matrix.values, matrix.factors), wanted.weight()[:, order])


def packing(form: Form) -> Any:
    found = read_packing({"quantization_config": form.said})
    assert found is not None
    return found


class Stored(dict[str, torch.Tensor]):
    """The tensors of one matrix, `m`."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__({f"m.{name}": tensor for name, tensor in tensors.items()})

    def whole(self, name: str, *shape: int) -> torch.Tensor:
        assert tuple(self[name].shape) == shape
        return self[name]


@pytest.mark.parametrize("shard", [WHOLE, Shard(0, 2), Shard(1, 2)])
@pytest.mark.parametrize("name", ["awq", "gptq_rows", "compressed"])
def test_parts_of_it_are_cut_as_of_any_other(plain: Path, name: str, shard: Shard) -> None:
    folder = packed(plain, FORMS[name])
    config = read_config(folder)
    kept = load_int4_weights(folder, config, dtype=torch.float32, device=CPU, shard=shard)
    read, expected = (
        load_weights(each, read_config(each), dtype=torch.float32, device=CPU, shard=shard)
        for each in (folder, plain)
    )
    for layers in zip(kept.layers, read.layers, expected.layers, strict=True):
        for field in fields(layers[0]):
            mine, other, wanted = (getattr(layer, field.name) for layer in layers)
            if field.name in MATRICES:
                assert isinstance(mine, Int4Matrix)
                mine = unpacked(mine.values, mine.factors)
            for tensor in (mine, other):
                assert (tensor is None) == (wanted is None)
                assert tensor is None or torch.equal(tensor, wanted)


def test_columns_that_groups_share_out_of_order_are_not_cut(plain: Path) -> None:
    folder = packed(plain, FORMS["gptq_ordered"])
    config = read_config(folder)
    weights = load_int4_weights(folder, config, dtype=torch.float32, device=CPU, shard=Shard(0, 2))
    message = (
        r"^model\.layers\.0\.\w+\.(o|down)_proj of .* cannot be multiplied in 4 bits, for a cut through "
        r"groups, to columns 0 to 64: lower tensor_parallel, or set quantization = 'none'"
    )
    with pytest.raises(ModelError, match=message):
        next(weights.layers)


def test_what_a_checkpoint_has_left_alone_stays_so(plain: Path) -> None:
    folder = packed(plain, FORMS["compressed"], keeping="v_proj")
    (first, _) = load_int4_weights(folder, read_config(folder), dtype=torch.float32, device=CPU).layers
    kept = {name for name in MATRICES if isinstance(getattr(first, name), Int4Matrix)}
    assert kept == {"out", "gate_up", "down"}
    model = in_four_bits(folder)
    assert model.numbers == "int4 and float32"
    expected = load_model(plain, dtype="float32", device="cpu")
    torch.testing.assert_close(logits(model), logits(expected), atol=1e-4, rtol=1e-4)


def test_any_checkpoint_is_rounded_where_that_is_asked_for(make_checkpoint: Callable[[str], Any]) -> None:
    folder = make_checkpoint("qwen2").folder
    exact, near = load_model(folder, dtype="float32", device="cpu"), in_four_bits(folder)
    assert near.numbers == "int4 and float32"
    expected, found = logits(exact), logits(near)
    assert torch.cosine_similarity(expected, found).min() > 0.8
    assert not torch.equal(expected, found)


GROUP = ("config_groups", "group_0")
WEIGHTS = (*GROUP, "weights")


@pytest.mark.parametrize(
    ("name", "at", "edit", "message"),
    [
        ("awq", (), {"bits": 8}, "its 'bits' must be 4, not 8: use another one, or the unquantized"),
        ("awq", (), {"version": "gemv"}, "its 'version' must be 'gemm', not 'gemv'"),
        ("awq", (), {"zero_point": False}, "its 'zero_point' must be True, not False"),
        ("awq", (), {"group_size": 0}, "its 'group_size' must be -1 or a positive integer, not 0: use"),
        ("gptq", (), {"bits": 3}, "its 'bits' must be 4, not 3"),
        ("gptq", (), {"checkpoint_format": "marlin"}, "its 'checkpoint_format' must be 'gptq', not 'marlin'"),
        ("gptq", (), {"pack_dtype": "int16"}, "its 'pack_dtype' must be 'int32', not 'int16'"),
        ("gptq", (), {"dynamic": {"+:.*": {"bits": 8}}}, "its 'dynamic' quantizes some matrices otherwise"),
        ("compressed", (), {"config_groups": {}}, "its 'config_groups' must quantize all weights alike"),
        ("compressed", GROUP, {"input_activations": {}}, "its 'input_activations' must be None, not {}"),
        ("compressed", WEIGHTS, {"num_bits": 8}, "its 'num_bits' must be 4, not 8"),
        ("compressed", WEIGHTS, {"type": "float"}, "its 'type' must be 'int', not 'float'"),
        ("compressed", WEIGHTS, {"strategy": "block"}, "its 'strategy' must be 'group', not 'block'"),
        ("compressed", WEIGHTS, {"group_size": None}, "its 'group_size' must be -1 or a positive integer"),
    ],
)
def test_other_variants_are_named(
    plain: Path, name: str, at: tuple[str, ...], edit: dict[str, Any], message: str
) -> None:
    said = deepcopy(FORMS[name].said)
    reduce(getitem, at, said).update(edit)
    edit_json(plain / "config.json", lambda config: config.update(quantization_config=said))
    with pytest.raises(ModelError) as raised:
        load_model(plain, device="cpu")
    assert f"config.json of {str(plain)!r}: {message}" in str(raised.value)


def test_matrices_that_other_rules_leave_alone_are_no_others(plain: Path) -> None:
    said = FORMS["gptq"].said | {"dynamic": {r"-:.*v_proj.*": {}}}
    assert read_packing({"quantization_config": said}) == packing(FORMS["gptq"])


DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("awq", "qzeros"),
        ("awq", "scales"),
        ("gptq_ordered", "g_idx"),
        ("compressed_zeros", "weight_zero_point"),
        ("compressed", "weight_packed"),
    ],
)
def test_tensors_that_are_missing_or_misshaped_are_named(plain: Path, name: str, lost: str) -> None:
    folder, tensor = packed(plain, FORMS[name]), f"{DOWN}.{lost}"
    shorten_tensor(folder, tensor)
    with pytest.raises(ModelError, match=rf"tensor '{tensor}' of .* has shape .*; config.json asks for \["):
        load_model(folder, device="cpu")
    edit_tensors(folder, lambda tensors: tensors.pop(tensor))
    missing = f"{DOWN}.weight" if lost == "weight_packed" else tensor
    with pytest.raises(ModelError, match=f"lacks the tensor '{missing}'"):
        load_model(folder, device="cpu")


def test_numbers_that_are_packed_otherwise_are_named(plain: Path) -> None:
    folder, tensor = packed(plain, FORMS["gptq"]), f"{DOWN}.qweight"
    edit_tensors(folder, lambda tensors: tensors.update({tensor: tensors[tensor].float()}))
    with pytest.raises(ModelError, match=rf"has words of torch\.float32, not torch\.int32, in '{tensor}'"):
        load_model(folder, device="cpu")


def test_quantization_that_the_configuration_says_nothing_of_is_named(plain: Path) -> None:
    folder = packed(plain, FORMS["gptq"])
    edit_json(folder / "config.json", lambda config: config.pop("quantization_config"))
    with pytest.raises(ModelError, match=r"_proj\.weight': it is quantized, of which config\.json says noth"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("beyond", [-1, 4])
def test_groups_that_are_not_there_are_named(plain: Path, beyond: int) -> None:
    folder, tensor = packed(plain, FORMS["gptq_ordered"]), f"{DOWN}.g_idx"
    edit_tensors(folder, lambda tensors: tensors[tensor].fill_(beyond))
    with pytest.raises(ModelError, match=f"matrix '{DOWN}' of .* has columns of groups beyond its 4"):
        load_model(folder, device="cpu")


def test_groups_without_a_product_are_refused_and_given_back(plain: Path) -> None:
    folder, tensor = packed(plain, FORMS["gptq_ordered"]), f"{DOWN}.g_idx"
    edit_tensors(folder, lambda tensors: tensors[tensor].fill_(1))
    assert load_model(folder, device="cpu").numbers == "float32"
    with pytest.raises(ModelError, match="for groups of other than 32 columns: set quantization = 'none'"):
        in_four_bits(folder)


@pytest.mark.parametrize(("columns", "group"), [(192, 128), (320, 256), (64, 128)])
def test_a_short_last_group_has_no_product(columns: int, group: int) -> None:
    """Groups that are counted only would all be alike."""
    groups = -(-columns // group)
    matrix = Packed(
        torch.zeros(4, columns, dtype=torch.uint8),
        torch.ones(4, groups),
        torch.zeros(4, groups, dtype=torch.uint8),
        group,
        None,
    )
    if groups == 1:
        assert matrix.matrix().shape == (4, columns)
        return
    with pytest.raises(ValueError, match=f"a last group of 64 columns, where others have {group}"):
        matrix.matrix()


def test_projections_of_one_input_have_one_order(plain: Path) -> None:
    folder, name = packed(plain, FORMS["gptq_ordered"]), "model.layers.0.self_attn.k_proj.g_idx"
    edit_tensors(folder, lambda tensors: tensors.update({name: tensors[name].flip(0).contiguous()}))
    assert load_model(folder, device="cpu").numbers == "float32"
    with pytest.raises(ModelError, match=r"q_proj, .*k_proj, .*v_proj of .* for columns in different orders"):
        in_four_bits(folder)


def test_widths_without_groups_are_refused(plain: Path) -> None:
    small = make("LlamaConfig", {"intermediate_size": 72}, plain.with_name("small")).folder
    with pytest.raises(ModelError, match=r"down_proj of .* not of a multiple of 32 each: set quantization"):
        in_four_bits(small)


def test_experts_are_not_kept_in_four_bits(
    make_checkpoint: Callable[[str], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_checkpoint("mixtral_sliding").folder
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    with pytest.raises(
        ModelError, match="has experts, which are not kept in 4 bits: set quantization = 'auto'"
    ):
        load_model(folder, device="cpu", quantization="int4")
    config = replace(read_config(folder), packing=packing(FORMS["awq"]))
    assert config.published == "none"
    said = FORMS["awq"].said
    edit_json(copied / "config.json", lambda config: config.update(quantization_config=said))
    load_model(copied, dtype="float32", device="cpu")  # its matrices have been left in 32 bits
    assert "is not kept in 4 bits, for it has experts" in caplog.text


def test_a_device_that_is_no_gpu_is_refused_and_auto_does_without(plain: Path) -> None:
    folder = packed(plain, FORMS["awq"])
    assert load_model(folder, dtype="float32", device="cpu", quantization="auto").numbers == "float32"
    with pytest.raises(ModelError, match=r"'int4' takes an NVIDIA GPU of compute capability 8\.0 or newer"):
        load_model(folder, device="cpu", quantization="int4")
