"""Models of known shapes with random weights, for speed alone."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from weft.kernels.int4 import Int4Matrix
from weft.runtime.llm.config import ModelConfig, read_config
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.loader import LayerWeights, Weights
from weft.runtime.llm.parallel.comm import ALONE, Communicator
from weft.runtime.llm.quantization import Quantization
from weft.runtime.llm.source import Matrix

__all__ = ["SHAPES", "config_of", "counting_model", "random_model", "random_part", "write_random"]

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-llama": (
        "LlamaConfig",
        {
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 16384,
            "initializer_range": 0.1,
        },
    ),
    "qwen3-0.6b": (
        "Qwen3Config",
        {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rope_theta": 1e6,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-8b": (
        "Qwen3Config",
        {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
        },
    ),
    "llama-3.1-70b": (
        "LlamaConfig",
        {
            "vocab_size": 128256,
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rope_theta": 5e5,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3-30b-a3b": (
        "Qwen3MoeConfig",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": True,
            "max_position_embeddings": 40960,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
        },
    ),
    "mixtral-8x7b": (
        "MixtralConfig",
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 32768,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
        },
    ),
    "llama-3.1-8b": (
        "LlamaConfig",
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rope_theta": 5e5,
            "tie_word_embeddings": False,
        },
    ),
}
"""The configuration class and fields of each shape."""


def write_random(
    name: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    vocabulary: int | None = None,
) -> None:
    """Write a checkpoint of a shape, the same at every call; drawn on `device`, by default the CPU.

    `vocabulary`: tokens in place of the shape's, for a tokenizer that has fewer.
    """
    import transformers

    models: Any = transformers.AutoModelForCausalLM  # parts of transformers have no types
    kind, fields = SHAPES[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**fields | ({"vocab_size": vocabulary} if vocabulary else {}))
    with device or torch.device("cpu"):
        model = models.from_config(config, dtype=dtype)
    model.save_pretrained(folder)


def random_model(
    name: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    layers: int | None = None,
    quantization: Quantization = "none",
) -> GpuModel:
    """A model of a shape whose weights are drawn on the device; no token ends its texts.

    `layers`: how many, if not as many as the shape has. `quantization`: of their matrices.
    """
    return random_part(name, dtype, layers, device, ALONE, quantization=quantization)


def counting_model(
    name: str, dtype: torch.dtype, device: torch.device, *, layers: int | None = None
) -> GpuModel:
    """A model that computes like `random_model` and writes, greedily, each token's successor by number.

    What its layers add is small beside its embeddings, and its head has those of the tokens before.
    """
    model = random_model(name, dtype, device, layers=layers)
    embedding, head = model._weights.embedding, model._weights.head
    embedding.mul_(5000.0)
    head.copy_(embedding.roll(1, 0))
    return model


def random_part(
    name: str,
    dtype: torch.dtype,
    layers: int | None,
    device: torch.device,
    comm: Communicator,
    *,
    quantization: Quantization = "none",
) -> GpuModel:
    """A rank's part of such a model, for `share`; every rank draws its own."""
    config = comm.shard.config(_read(name, layers))
    if quantization == "int4" and config.experts is not None:
        raise SystemExit(f"{name} has experts, which are not kept in 4 bits")
    hidden, vocab = config.hidden_size, config.vocab_size
    qkv = (config.heads + 2 * config.kv_heads) * config.head_dim
    generator = torch.Generator(device).manual_seed(comm.shard.rank)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device).normal_(0.0, 0.02, generator=generator)

    def matrix(*shape: int) -> Matrix:
        return Int4Matrix.of(drawn(*shape)) if quantization == "int4" else drawn(*shape)

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype, device=device)

    embedding = drawn(vocab, hidden)

    def layer(index: int) -> LayerWeights[Matrix]:
        inner, router = config.intermediate_size, None
        each: tuple[int, ...] = ()
        experts = config.experts
        if experts is not None and index in experts.layers:
            inner, each = experts.intermediate_size, (experts.count + experts.shared,)
            router = drawn(experts.count + (experts.shared > 0), hidden)
        return LayerWeights(
            input_norm=ones(hidden),
            qkv=matrix(qkv, hidden),
            qkv_bias=None,
            qk_norm=ones(config.heads + config.kv_heads, config.head_dim) if config.qk_norm else None,
            out=matrix(hidden, config.heads * config.head_dim),
            out_bias=None,
            post_norm=ones(hidden),
            gate_up=drawn(*each, 2 * inner, hidden) if each else matrix(2 * inner, hidden),
            gate_up_bias=None,
            down=drawn(*each, hidden, inner) if each else matrix(hidden, inner),
            down_bias=None,
            router=router,
        )

    rows = comm.shard.most(vocab)
    head = embedding[:rows] if config.tied else drawn(rows, hidden)
    layers_in_turn = (layer(index) for index in range(config.layers))  # as from a checkpoint
    weights = Weights(embedding, layers_in_turn, ones(hidden), head)
    return GpuModel(config, weights, name=name, comm=comm, fp8=quantization == "fp8")


def config_of(name: str, *, layers: int | None = None) -> dict[str, Any]:
    """What config.json says in a checkpoint of a shape; `layers` in place of as many as it has."""
    kind, fields = SHAPES[name]
    if layers is not None:
        fields = fields | {"num_hidden_layers": layers}
    written = {"architectures": [kind.replace("Config", "ForCausalLM")], **fields}
    model_type = kind.removesuffix("Config").replace("Moe", "_moe").lower()
    return {"model_type": model_type, "rms_norm_eps": 1e-5, **written}


def _read(name: str, layers: int | None) -> ModelConfig:
    """The configuration of a shape, as if it had been read from a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config_of(name, layers=layers)))
        return replace(read_config(Path(folder)), eos_ids=frozenset())
