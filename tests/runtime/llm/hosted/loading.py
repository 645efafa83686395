"""Families that run through transformers, each with what is peculiar to it made small."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from weft.runtime.llm.hosted.model import HostedDeviceModel, HostedModel
from weft.runtime.llm.model import Model, load_model

__all__ = ["DEVICE", "FAMILIES", "KINDS", "Kind", "load_as"]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

_MLA = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_ALTERNATING = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "gemma2": (
        "Gemma2Config",
        {
            "head_dim": 16,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 20.0,
            "query_pre_attn_scalar": 10,
            **_ALTERNATING,
        },
    ),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 32, **_ALTERNATING}),
    "gemma4": (  # layers of two widths, of which one needs the other's KV heads thrice
        "Gemma4TextConfig",
        {
            "head_dim": 16,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            **_ALTERNATING,
        },
    ),
    "phi3": ("Phi3Config", {"partial_rotary_factor": 0.5}),
    "gpt_neox": ("GPTNeoXConfig", {"rotary_pct": 0.25}),
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 2048}),
    "gptj": ("GPTJConfig", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 2048, "rotary_dim": 8}),
    "opt": ("OPTConfig", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "olmo2": ("Olmo2Config", {}),
    "granite": (
        "GraniteConfig",
        {"attention_multiplier": 0.2, "logits_scaling": 2.0, "residual_multiplier": 0.7},
    ),
    "glm4": ("Glm4Config", {"head_dim": 16}),
    "starcoder2": ("Starcoder2Config", {"sliding_window": 16}),
    "stablelm": ("StableLmConfig", {"use_qkv_bias": True}),
    "cohere2": ("Cohere2Config", {"logit_scale": 0.3, **_ALTERNATING}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "deepseek_v3": ("DeepseekV3Config", _MLA),
    "diffllama": ("DiffLlamaConfig", {}),  # each layer attends twice, with two heads' values side by side
}

Kind = Literal["tiles", "tables"]
KINDS: tuple[Kind, ...] = ("tables",) if DEVICE == "cuda" else ("tiles", "tables")
"""How attention is computed: as on a CPU, or as on a GPU."""


def load_as(kind: Kind, folder: Path) -> Model:
    """A checkpoint in float32."""
    model = load_model(folder, dtype="float32", device=DEVICE, code="transformers")
    if kind == "tiles" or isinstance(model, HostedDeviceModel):
        return model
    assert isinstance(model, HostedModel)
    return HostedDeviceModel(model.config, model.code, name=model.name, dtype=model.dtype)
