"""From the start of a process to its first token: a checkpoint of a shape, and whoever starts on it.

Run by itself, with a folder, it starts an engine on the checkpoint there and writes one token.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import torch
from engines.models import config_of
from safetensors.torch import save_file

from gpus.clocks import serve
from gpus.prompts import unshared
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import load_model
from weft.runtime.llm.options import EngineOptions

__all__ = ["start_seconds", "write_checkpoint"]

_LAYERS_A_FILE: Final = 8


def write_checkpoint(name: str, folder: Path) -> int:
    """Write random bfloat16 weights of a dense shape as safetensors; returns their bytes."""
    written = config_of(name)
    if "num_experts_per_tok" in written:
        raise SystemExit(f"--loads start is for dense models, and {name} has experts")
    hidden, inner, vocab = (written[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, kv_heads = written["num_attention_heads"], written["num_key_value_heads"]
    head_dim = written.get("head_dim", hidden // heads)
    written["torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(written))
    where: dict[str, str] = {}
    size = 0

    def save(file: str, shapes: dict[str, tuple[int, ...]]) -> None:
        nonlocal size
        drawn = {
            key: torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0.0, 0.02).cpu()
            for key, shape in shapes.items()
        }
        save_file(drawn, folder / file)
        size += sum(tensor.nbytes for tensor in drawn.values())
        where.update(dict.fromkeys(shapes, file))

    layers = written["num_hidden_layers"]
    shapes: dict[str, tuple[int, ...]]
    for first in range(0, layers, _LAYERS_A_FILE):
        shapes = {}
        for index in range(first, min(first + _LAYERS_A_FILE, layers)):
            own = {
                "self_attn.q_proj": (heads * head_dim, hidden),
                "self_attn.k_proj": (kv_heads * head_dim, hidden),
                "self_attn.v_proj": (kv_heads * head_dim, hidden),
                "self_attn.o_proj": (hidden, heads * head_dim),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
            }
            shapes |= {f"model.layers.{index}.{key}.weight": shape for key, shape in own.items()}
        save(f"layers-{first}.safetensors", shapes)
    ends = ("model.embed_tokens", "lm_head")
    shapes = {f"{key}.weight": (vocab, hidden) for key in ends}
    save("ends.safetensors", {**shapes, "model.norm.weight": (hidden,)})
    listed = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed))
    return size


def start_seconds(name: str) -> dict[str, Any]:
    """What a new process takes, from its start, to load such a checkpoint and to write its first token.

    The checkpoint has just been written, so that the machine may have it in memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        size = write_checkpoint(name, Path(folder))
        torch.cuda.empty_cache()
        began = time.perf_counter()
        command = [sys.executable, "-P", __file__, folder]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        took = time.perf_counter() - began
    return {"gigabytes": size / 1e9, "process_s": took, **json.loads(ran.stdout.splitlines()[-1])}


def main() -> None:
    """Start on a checkpoint; how long its parts took, as JSON."""
    began = time.perf_counter()
    model = load_model(sys.argv[1], device="cuda")
    torch.cuda.synchronize()
    loaded = time.perf_counter()
    with LLMEngine(model, None, EngineOptions()) as engine:
        serve(engine, unshared(1, 16, engine.info.vocab_size, seed=0), 1)
        written = time.perf_counter()
    print(json.dumps({"load_s": loaded - began, "first_token_s": written - loaded}))


if __name__ == "__main__":
    main()
