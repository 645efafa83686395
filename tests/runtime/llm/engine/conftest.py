"""Small random checkpoints of every family, what transformers makes of them, and what is begun ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from weft.runtime.llm.gpu.runner import GpuRunner

from ..checkpoints import Checkpoint, make

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "llama_mha_tied": ("LlamaConfig", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama_mqa_bias": (
        "LlamaConfig",
        {"num_key_value_heads": 1, "head_dim": 24, "attention_bias": True, "mlp_bias": True},
    ),
    "llama3_rope": ("LlamaConfig", {"rope_parameters": _LLAMA3}),
    "llama_yarn": ("LlamaConfig", {"rope_parameters": _YARN}),
    "llama_linear": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "mistral_sliding": ("MistralConfig", {"sliding_window": 16}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2_sliding": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": False}),
    "mixtral_sliding": ("MixtralConfig", {"sliding_window": 16, "num_local_experts": 4}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 48,
            "mlp_only_layers": [0],
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {
            "head_dim": 32,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
    ),
    "qwen3_moe_sparse_bias": (
        "Qwen3MoeConfig",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "decoder_sparse_step": 2,
            "attention_bias": True,
        },
    ),
    "qwen3_bias_tied": ("Qwen3Config", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
}


@pytest.fixture(scope="session", params=list(_CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    """The name of each checkpoint in turn."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """A random checkpoint by its name, made once."""
    made: dict[str, Checkpoint] = {}

    def find(name: str) -> Checkpoint:
        if name not in made:
            made[name] = make(*_CONFIGS[name], tmp_path_factory.mktemp(name), seed=len(name))
        return made[name]

    return find


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences each step had that was begun ahead."""
    sizes: list[int] = []
    run = GpuRunner.run_ahead

    def counted(runner: GpuRunner, sequences: Sequence[Any], tokens: torch.Tensor) -> torch.Tensor:
        sizes.append(len(sequences))
        return run(runner, sequences, tokens)

    monkeypatch.setattr(GpuRunner, "run_ahead", counted)
    return sizes
