"""A checkpoint of the Llama family in llama.cpp: written as GGUF, and run through the C interface."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from safetensors import safe_open

__all__ = ["LlamaCpp"]

_CONTEXT = 4096
_BATCH = 512  # tokens that are computed at once, llama.cpp's default
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class LlamaCpp:
    """One context of one sequence."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Convert the checkpoint and load it; raises `ValueError` for other families than Llama."""
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            _convert(folder, file.name)
            self._llama = llama_cpp.Llama(
                file.name,
                n_ctx=_CONTEXT,
                n_batch=_BATCH,
                n_threads=threads,
                n_threads_batch=threads,
                verbose=False,
            )
        self._vocab = self._llama.n_vocab()

    def run(self, prompts: Sequence[list[int]], outputs: Sequence[int]) -> list[list[int]]:
        """Continue each prompt by so many tokens."""
        return [self._continue(prompt, count) for prompt, count in zip(prompts, outputs, strict=True)]

    def _continue(self, prompt: list[int], count: int) -> list[int]:
        llama = self._llama
        present = llama.input_ids[: llama.n_tokens].tolist()
        shared = 0
        while shared < min(len(present), len(prompt) - 1) and present[shared] == prompt[shared]:
            shared += 1
        llama.n_tokens = shared
        llama.eval(prompt[shared:])
        tokens = [self._likeliest()]
        while len(tokens) < count:
            llama.eval(tokens[-1:])
            tokens.append(self._likeliest())
        return tokens

    def _likeliest(self) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab,)).argmax())


def _convert(folder: Path, path: str) -> None:
    """Write a Llama checkpoint in float32 as GGUF, its tokens by made-up names."""
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llama":
        raise ValueError(f"{config['model_type']!r} models are not converted, only 'llama'")
    writer = gguf.GGUFWriter(path, "llama")
    _write_shape(writer, config)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = file.keys()  # the file itself cannot be iterated over
        tensors = {name: file.get_tensor(name).float().numpy() for name in names}
    embedding = tensors["model.embed_tokens.weight"]
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", tensors["model.norm.weight"])
    writer.add_tensor("output.weight", tensors.get("lm_head.weight", embedding))
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for layer in range(config["num_hidden_layers"]):
        for name, original in _LAYER.items():
            tensor = tensors[f"model.layers.{layer}.{original}.weight"]
            if name in heads:
                tensor = _interleaved(tensor, heads[name])
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_shape(writer: Any, config: dict[str, Any]) -> None:
    heads, vocab = config["num_attention_heads"], config["vocab_size"]
    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_vocab_size(vocab)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    bytes_ = [f"<0x{byte:02X}>".encode() for byte in range(256)]
    writer.add_token_list(
        [b"<unk>", b"<s>", b"</s>", *bytes_, *(f"t{i}".encode() for i in range(vocab - 259))]
    )
    writer.add_token_scores([0.0] * vocab)
    kinds = gguf.TokenType
    special = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    writer.add_token_types([*special, *[kinds.NORMAL] * (vocab - 259)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _interleaved(weight: Any, heads: int) -> Any:
    """Rows of a projection with the numbers of each rotated pair side by side, as llama.cpp wants them."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)
