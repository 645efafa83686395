"""Checkpoints in all their layouts, and what is said about bad ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.runtime.llm.config import read_config
from weft.runtime.llm.cpu import trial
from weft.runtime.llm.cpu.model import CpuModel
from weft.runtime.llm.errors import ModelError
from weft.runtime.llm.hub import resolve_folder
from weft.runtime.llm.model import Model, load_model
from weft.runtime.llm.runner import ModelRunner
from weft.runtime.llm.sequence import Sequence

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(make_checkpoint: Callable[[str], Any], tmp_path: Path) -> Path:
    """A copy of a small checkpoint that may be spoiled."""
    return Path(shutil.copytree(make_checkpoint("llama3_rope").folder, tmp_path / "model"))


def edit_json(path: Path, edit: Edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def edit_tensors(folder: Path, edit: Edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def shorten_tensor(folder: Path, name: str) -> None:
    """Leave no more than its first row."""
    edit_tensors(folder, lambda tensors: tensors.update({name: tensors[name][:1].contiguous()}))


def logits(model: Model) -> torch.Tensor:
    sequence = Sequence(torch.arange(3, 60).numpy(), 57)
    sequence.extend(torch.arange(57).numpy())
    return ModelRunner(model, 57).run([(sequence, 57)], [56])


def test_old_and_new_layouts_of_the_rotary_parameters_agree(folder: Path) -> None:
    new = read_config(folder)

    def to_old(config: dict[str, Any]) -> None:
        scaling = config.pop("rope_parameters")
        config["rope_theta"] = scaling.pop("rope_theta")
        config["rope_scaling"] = scaling

    edit_json(folder / "config.json", to_old)
    assert read_config(folder) == new
    assert (new.rope.kind, new.rope.theta, new.rope.factor) == ("llama3", 500.0, 8.0)


def test_shards_load_like_one_file(make_checkpoint: Callable[[str], Any], tmp_path: Path) -> None:
    checkpoint = make_checkpoint("qwen2")
    checkpoint.model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(logits(load_model(tmp_path)), logits(load_model(checkpoint.folder)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_close(folder: Path, dtype: str) -> None:
    half = load_model(folder, dtype=dtype, device="cpu")
    assert str(half.dtype) == f"torch.{dtype}"
    exact = logits(load_model(folder, device="cpu"))
    assert logits(half).dtype == torch.float32
    assert torch.cosine_similarity(logits(half), exact) > 0.99


def test_all_ends_of_sequence_count(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(eos_token_id=5))
    edit_json(folder / "generation_config.json", lambda config: config.update(eos_token_id=[7, 8]))
    assert read_config(folder).eos_ids == {5, 7, 8}


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, (None, 9)),
        ({"use_sliding_window": False, "sliding_window": 9, "max_window_layers": 0}, (None, None)),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 9,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (9, None),
        ),
    ],
)
def test_sliding_windows_of_qwen(
    make_checkpoint: Callable[[str], Any],
    tmp_path: Path,
    fields: dict[str, Any],
    windows: tuple[int | None, ...],
) -> None:
    shutil.copy(make_checkpoint("qwen2").folder / "config.json", tmp_path)

    def set_fields(config: dict[str, Any]) -> None:
        config.pop("layer_types", None)
        config.update(fields)

    edit_json(tmp_path / "config.json", set_fields)
    assert read_config(tmp_path).windows == windows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "architecture GPT2LMHeadModel is none of weft's own, which are LlamaForCausalLM, Mistral",
        ),
        (
            {"architectures": None, "model_type": "bert"},
            "architecture model type 'bert' is none of weft's own",
        ),
        ({"hidden_size": None}, "hidden_size must be a positive integer, not None"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers must be a positive integer, not 'two'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"quantization_config": {"quant_method": "bnb"}}, "its quantization, 'bnb', is not supported"),
        (
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}},
            "rope scaling 'longrope' is not supported; supported are default, linear, llama3, yarn",
        ),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope scaling 'linear' lacks or misstates .*'factor'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial rotary embedding"),
    ],
)
def test_unsupported_configurations_are_named(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit_json(folder / "config.json", lambda config: config.update(fields))
    with pytest.raises(ModelError, match=message):
        load_model(folder, code="weft")


def test_a_missing_folder_or_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no/such/folder' does not exist, and it is no hub name"):
        load_model("no/such/folder")
    with pytest.raises(ModelError, match=r"holds no config\.json: is it a checkpoint folder\?"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json' cannot be read"):
        load_model(tmp_path)


def test_a_download_that_fails_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'nobody/nothing' is no local folder and cannot be downloaded"):
        resolve_folder("nobody/nothing")


def test_damaged_tensor_files_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"not a tensor file at all"):
        path.write_bytes(damage)
        with pytest.raises(ModelError, match=r"model\.safetensors' is damaged or unreadable"):
            load_model(folder)
    path.unlink()
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        load_model(folder)


def test_a_damaged_index_is_named(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "absent.safetensors"}}')
    with pytest.raises(ModelError, match=r"lacks absent\.safetensors"):
        load_model(folder)
    index.write_text("[]")
    with pytest.raises(ModelError, match="is no safetensors index"):
        load_model(folder)


def test_missing_and_misshaped_tensors_are_named(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(3, 64)}))
    with pytest.raises(
        ModelError, match=rf"{name}' of .* has shape \[3, 64\]; config.json asks for \[96, 64\]"
    ):
        load_model(folder)
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=rf"lacks the tensor '{name}'"):
        load_model(folder)


def test_bad_devices_and_dtypes_are_named(folder: Path) -> None:
    with pytest.raises(ModelError, match="dtype 'int4' is not supported; choose one of float32"):
        load_model(folder, dtype="int4")
    with pytest.raises(ModelError, match="device 'abacus' cannot be used"):
        load_model(folder, device="abacus")


def test_steps_take_the_threads_that_were_chosen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "choose_threads", lambda _, most, gain: [0, most, 0, most])
    torch.set_num_threads(2)
    try:
        loaded = load_model(folder, device="cpu", native=False)
    finally:
        torch.set_num_threads(1)
    used: list[int] = []
    monkeypatch.setattr(CpuModel, "_forward", lambda self, *args: used.append(args[-1]))
    forward: Any = loaded.forward  # of whose arguments the first alone is used
    for rows in (1, 4, 16, 64):
        forward(torch.zeros(rows), *[None] * 4)
    assert used == [0, 1, 0, 1]
