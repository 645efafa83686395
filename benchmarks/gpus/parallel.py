"""A model on one GPU and on several: the same texts, and how much faster they are written."""

from __future__ import annotations

import gc
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from engines.models import random_model, random_part, write_random

from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.loader import choose_devices
from weft.runtime.llm.model import Model, load_model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.parallel.share import share
from weft.runtime.llm.requests import Finished, GenerateRequest

from .ceilings import roofline
from .clocks import serve
from .prompts import Ids, prompt_of, unshared
from .timing import decode_speed, whole_seconds
from .trace import trace_decodes

__all__ = ["decode_together", "same_texts"]

_SMALL: Final = "tiny-llama"  # of 8 heads and 2 KV heads
_REQUESTS: Final = 48
_BUDGET: Final = 4096  # tokens a step
_LIMIT_S: Final = 120.0


def same_texts(ranks: int, device: str) -> dict[str, Any]:
    """How many greedy texts of a small float32 checkpoint are the same, by one process and by several.

    With CUDA graphs and overlapped steps on and off.
    """
    report: dict[str, Any] = {"model": _SMALL, "requests": _REQUESTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random(_SMALL, folder)
        alone = load_model(folder, dtype="float32", device=device)
        expected = _texts(alone)
        report["tokens"] = sum(map(len, expected))
        report["alone, no CUDA graphs"] = _equal(expected, _texts(alone, cuda_graphs=False))
        began = time.perf_counter()
        shared = load_model(folder, dtype="float32", device=device, tensor_parallel=ranks)
        report["load_s"] = time.perf_counter() - began
        try:
            for graphs in (True, False):
                for overlap in (True, False):
                    found = _texts(shared, cuda_graphs=graphs, overlap=overlap)
                    title = f"CUDA graphs {_word(graphs)}, overlap {_word(overlap)}"
                    report[title] = _equal(expected, found)
        finally:
            shared.close()
    return report


def _word(on: bool) -> str:
    return "on" if on else "off"


def _texts(model: Model, **options: bool) -> list[tuple[int, ...]]:
    chance = random.Random(5)
    sampling = Sampling(max_tokens=64, ignore_eos=True)
    with LLMEngine(model, None, EngineOptions(kv_tokens=16_384, max_running=32, **options)) as engine:
        vocab = engine.info.vocab_size
        head = prompt_of(200, vocab, chance)
        requests = [
            GenerateRequest(
                (*head[: number % 3 * 100], *prompt_of(20 + number, vocab, chance)), sampling=sampling
            )
            for number in range(_REQUESTS)
        ]
        ends = [events[-1] for events in run_requests(engine, requests, timeout=_LIMIT_S)]
    return [end.ids if isinstance(end, Finished) else () for end in ends]


def _equal(expected: list[tuple[int, ...]], found: list[tuple[int, ...]]) -> int:
    return sum(one == other for one, other in zip(expected, found, strict=True))


def decode_together(
    name: str,
    layers: int | None,
    ranks: int,
    batches: list[int],
    lengths: tuple[int, int],
    ceilings: tuple[float, float],
) -> dict[str, Any]:
    """Decoding with random bfloat16 weights of a shape, cut to `layers`, on one GPU and on `ranks`.

    `lengths`: tokens of prompts and of outputs. `ceilings`: see `roofline`, which is that of one GPU.
    """
    report: dict[str, Any] = {"model": name, "layers": layers}
    devices = choose_devices("cuda:0", ranks)
    for count in (1, ranks):
        began = time.perf_counter()
        if count == 1:
            model = random_model(name, torch.bfloat16, devices[0], layers=layers)
        else:
            model = share(partial(random_part, name, torch.bfloat16, layers), devices)
        try:
            report[f"{count} GPUs"] = _decode(model, batches, lengths, ceilings if count == 1 else None)
        finally:
            model.close()
        report[f"{count} GPUs"]["all_s"] = time.perf_counter() - began
        del model
        gc.collect()
        torch.cuda.empty_cache()
    alone, together = report["1 GPUs"]["rows"], report[f"{ranks} GPUs"]["rows"]
    report["times"] = {batch: together[batch]["tokens_s"] / alone[batch]["tokens_s"] for batch in batches}
    return report


def _decode(
    model: Any, batches: list[int], lengths: tuple[int, int], ceilings: tuple[float, float] | None
) -> dict[str, Any]:
    most, (prompt, output) = max(batches), lengths
    slots = most * (prompt + output) + 1024
    rows: dict[int, dict[str, float]] = {}

    def prompts(count: int, seed: int) -> list[Ids]:
        return unshared(count, prompt, model.config.vocab_size, seed)

    began = time.perf_counter()
    with LLMEngine(
        model,
        None,
        EngineOptions(kv_tokens=slots, token_budget=_BUDGET, max_running=most, prompt_lookup=False),
    ) as engine:
        start = time.perf_counter() - began
        serve(engine, prompts(most, 1), 8)
        for batch in batches:
            speed, step = decode_speed(serve(engine, prompts(batch, 100 + batch), output))
            rows[batch] = {"tokens_s": speed, "step_ms": step * 1e3}
            if ceilings is not None:
                rows[batch]["fraction"] = speed / roofline(model, batch, prompt + output / 2, *ceilings)
            print(model.ranks, batch, rows[batch], flush=True)
        reading = most * prompt / whole_seconds(serve(engine, prompts(most, 7), 1))
        trace = trace_decodes(engine, most, prompt)
    return {"rows": rows, "prefill_tokens_s": reading, "start_s": start, "trace": trace}
