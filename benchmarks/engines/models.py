"""Models of known shapes with random weights, for speed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["SHAPES", "write_random"]

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
            "max_position_embeddings": 4096,
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
}
"""The configuration class and fields of each shape."""


def write_random(name: str, folder: Path) -> None:
    """Write a checkpoint of a shape, the same at every call."""
    import torch
    import transformers

    models: Any = transformers.AutoModelForCausalLM  # parts of transformers have no types
    kind, fields = SHAPES[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**fields)
    models.from_config(config).save_pretrained(folder)
