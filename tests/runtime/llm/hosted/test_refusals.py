"""What would not compute what transformers computes is refused at the start, by name."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from weft.runtime.llm.errors import ModelError
from weft.runtime.llm.hosted import loading
from weft.runtime.llm.hosted.code import HostedCode
from weft.runtime.llm.hosted.guard import check
from weft.runtime.llm.hosted.model import HostedDeviceModel, HostedModel
from weft.runtime.llm.hosted.probe import RefusedError
from weft.runtime.llm.model import load_model

from ..checkpoints import make
from .loading import DEVICE, KINDS, load_as

_MOE = {"num_local_experts": 4, "head_dim": 16}


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("GptOssConfig", _MOE, "architecture GptOssForCausalLM cannot run .* it has attention sinks; serve"),
        (
            "FalconConfig",
            {},
            r"FalconForCausalLM .* does not go through the attention interface .* in version \d",
        ),
        ("FalconConfig", {"alibi": True}, "architecture FalconForCausalLM .* it has ALiBi"),
        ("BloomConfig", {"n_layer": 2, "n_head": 4}, "architecture BloomForCausalLM .* it has ALiBi"),
        (
            "Llama4TextConfig",
            {"head_dim": 16, "intermediate_size_mlp": 96, "attention_chunk_size": 8, **_MOE},
            "architecture Llama4ForCausalLM .* no sliding window, such as chunks",
        ),
        (
            "Lfm2Config",
            {"layer_types": ["conv", "full_attention"]},
            r"architecture Lfm2ForCausalLM .* it has recurrent layers \(conv\)",
        ),
        ("BambaConfig", {}, "architecture BambaForCausalLM .* it has recurrent layers"),
        ("DogeConfig", {}, "architecture DogeForCausalLM .* an attention mask that its code makes itself"),
    ],
)
def test_features_are_named(tmp_path: Path, kind: str, fields: dict[str, Any], message: str) -> None:
    make(kind, fields, tmp_path, attention="eager")
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path, device=DEVICE)


def edited(source: Path, target: Path, **fields: Any) -> Path:
    """A copy of a checkpoint whose config.json says something else."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return target


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "architecture T5ForConditionalGeneration .* it has an encoder",
        ),
        (
            {"architectures": ["MyOwnModel"], "auto_map": {"AutoModelForCausalLM": "own.MyOwnModel"}},
            r"MyOwnModel is neither one of weft's own nor a causal .* \(its own code, auto_map, is not run\)",
        ),
        ({"architectures": None, "model_type": "vit"}, "of model type 'vit' is neither one of weft's own"),
        ({"quantization_config": {"bits": 4}}, "takes no quantized checkpoints here"),
        ({"add_cross_attention": True}, "GPT2LMHeadModel .* it has cross-attention"),
        ({"n_head": 7}, "GPT2LMHeadModel cannot run through transformers, whose code says: "),
    ],
)
def test_configurations_are_named(
    make_checkpoint: Callable[..., Any], tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(edited(make_checkpoint("gpt2").folder, tmp_path, **fields), device="cpu")


def test_a_missing_tensor_is_not_made_up(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    folder = edited(make_checkpoint("gpt2").folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"lacks the tensor 'transformer\.h\.1\.mlp\.c_fc\.weight' of GPT2LM"
    ):
        load_model(folder, device="cpu")


def test_settings_that_do_not_go_with_it_are_refused(make_checkpoint: Callable[..., Any]) -> None:
    folder = make_checkpoint("gpt2").folder
    with pytest.raises(
        ModelError, match="runs through transformers, in one process: tensor_parallel must be 1"
    ):
        load_model(folder, device="cpu", tensor_parallel=2)
    with pytest.raises(ModelError, match="dtype 'int4' is not supported; choose one of float32"):
        load_model(folder, device="cpu", dtype="int4")
    with pytest.raises(ModelError, match="architecture GPT2LMHeadModel is none of weft's own"):
        load_model(folder, device="cpu", code="weft")


def test_without_transformers_the_remedy_is_named(
    make_checkpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = make_checkpoint("gpt2").folder, builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ModelError, match=r"GPT2LMHeadModel .* not installed: pip install 'weft\[transformers\]'"
    ):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_the_trial_finds_what_no_table_knows(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A convolution over the tokens of a batch mixes prompts, and does not see the chunk before."""
    make("Lfm2Config", {"layer_types": ["conv", "full_attention"]}, tmp_path, attention="eager")
    monkeypatch.setattr(loading, "_refuse_layers", lambda text: None)
    with pytest.raises(
        ModelError, match=r"Lfm2ForCausalLM .* depends on how a batch is laid out, .* recurrent"
    ):
        load_as(kind, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trial_bears_rounding_but_no_other_logits(
    dtype: str, make_checkpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(make_checkpoint("gemma3").folder, dtype=dtype, device=DEVICE)
    assert str(model.dtype) == f"torch.{dtype}"
    assert isinstance(model, HostedModel | HostedDeviceModel)
    code = model.code
    check(model, code)
    wrong = code.eager
    monkeypatch.setattr(code, "eager", lambda ids: wrong(ids).roll(1, dims=0))
    with pytest.raises(RefusedError, match="off those of its own attention"):
        check(model, code)


def test_a_trial_that_graphs_fail_is_had_without_them(
    make_checkpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_as("tables", make_checkpoint("gpt2").folder)
    assert isinstance(model, HostedDeviceModel)
    model.capturable = True
    trials: list[bool] = []

    def trial(model: HostedDeviceModel, code: HostedCode) -> None:
        trials.append(model.capturable)
        if model.capturable:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        check(model, code)

    monkeypatch.setattr(loading, "check", trial)
    loading._try(model, model.code)
    assert trials == [True, False]
    assert "cannot hold the steps" in caplog.text
    assert "more" not in caplog.text


def test_rotations_that_change_with_the_length_bound_the_context(tmp_path: Path) -> None:
    longrope = {
        "rope_type": "longrope",
        "rope_theta": 1000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0 + n for n in range(8)],
        "original_max_position_embeddings": 64,
    }
    fields = {"rope_parameters": longrope, "original_max_position_embeddings": 64}
    checkpoint = make("Phi3Config", fields, tmp_path, attention="eager")
    model = load_model(tmp_path, dtype="float32", device=DEVICE)
    assert (checkpoint.model.config.max_position_embeddings, model.config.context_length) == (2048, 64)


def test_a_variant_of_an_own_family_runs_through_transformers(
    make_checkpoint: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = edited(make_checkpoint("llama").folder, tmp_path, hidden_act="gelu")
    model = load_model(folder, device=DEVICE)
    assert model.config.family == "llama through transformers"
    assert "hidden_act 'gelu' is not supported, only 'silu'; transformers' code computes it" in caplog.text
