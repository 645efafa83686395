"""The same checkpoint by weft's code and by that of transformers, each with CUDA graphs and without."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from engines.models import write_random

from gpus.clocks import serve
from gpus.prompts import unshared
from gpus.timing import decode_speed
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import Code, Model, load_model
from weft.runtime.llm.options import EngineOptions

__all__ = ["by_both_codes"]

_CODES: Final[tuple[Code, ...]] = ("weft", "transformers")
_ROUNDS: Final = 2  # each code in turn


def by_both_codes(
    name: str, batches: Sequence[int], prompt: int, output: int, *, device: str = "cuda"
) -> dict[str, Any]:
    """Tokens a second while all requests of a batch write, in bfloat16 on random weights of a shape.

    Keys of `tokens_s` say whose code and whether with CUDA graphs; values are the speeds by batch, one dict a
    round.
    """
    found: dict[str, Any] = {"load_s": {}, "tokens_s": {}}
    with tempfile.TemporaryDirectory() as path:
        write_random(name, Path(path), dtype=torch.bfloat16, device=torch.device(device))
        models: dict[Code, Model] = {}
        for code in _CODES:
            started = time.perf_counter()
            models[code] = load_model(path, dtype="bfloat16", device=device, code=code)
            found["load_s"][code] = time.perf_counter() - started
    for _ in range(_ROUNDS):
        for code, model in models.items():
            for graphs in (True, False):
                arm = f"{code}, graphs {'on' if graphs else 'off'}"
                speeds = _speeds(model, batches, prompt, output, graphs=graphs)
                print(arm, speeds, flush=True)
                found["tokens_s"].setdefault(arm, []).append(speeds)
    return found


def _speeds(
    model: Model, batches: Sequence[int], prompt: int, output: int, *, graphs: bool
) -> dict[int, float]:
    model.config = replace(model.config, eos_ids=frozenset())
    most = max(batches)
    slots = most * (prompt + output) + 1024
    settings = EngineOptions(
        kv_tokens=slots, host_kv_tokens=0, max_running=most, cuda_graphs=graphs, prompt_lookup=False
    )
    with LLMEngine(model, None, settings) as engine:
        vocab = model.config.vocab_size
        serve(engine, unshared(min(most, 4), prompt, vocab, 1), 4)
        return {
            batch: decode_speed(serve(engine, unshared(batch, prompt, vocab, 100 + batch), output))[0]
            for batch in batches
        }
