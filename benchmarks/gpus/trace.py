"""A trace of decode steps: how long the device had nothing to do, and what it did."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from weft.graph.sampling import Sampling
from weft.runtime.llm.engine import LLMEngine

from .clocks import submit, wait
from .prompts import unshared

__all__ = ["trace_decodes"]

_KERNELS: Final = 12  # that are named


def trace_decodes(engine: LLMEngine, batch: int, prompt: int, seconds: float = 0.5) -> dict[str, Any]:
    """Trace the device while requests write that share nothing.

    It counts from the first start of a kernel to the last end. `idle` is the share of that time in which no
    kernel and no copy ran, `exchange` that of NCCL's kernels, which wait for the other GPUs, too.
    """
    with profile(activities=[ProfilerActivity.CUDA]):  # the first of a process takes longer than is traced
        torch.cuda.synchronize()
    prompts = unshared(batch, prompt, engine.info.vocab_size, seed=9)
    clocks = [submit(engine, ids, Sampling(max_tokens=256)) for ids in prompts]
    while not all(len(clock.times) > 20 for clock in clocks):
        time.sleep(0.002)
    with profile(activities=[ProfilerActivity.CUDA]) as traced:
        time.sleep(seconds)
        torch.cuda.synchronize()
    wait(clocks)
    spans: list[tuple[float, float]] = []
    each: list[tuple[str, float]] = []
    by_name: defaultdict[str, float] = defaultdict(float)
    for event in traced.events() or ():
        if event.device_type.name == "CUDA":
            spans.append((event.time_range.start, event.time_range.end))
            each.append((event.name, event.time_range.elapsed_us()))
            by_name[event.name[:80]] += event.time_range.elapsed_us()
    spans.sort()
    busy, reached = 0.0, spans[0][0]
    gaps: list[float] = []
    for start, end in spans:
        if start > reached:
            gaps.append(start - reached)
        busy += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    whole = reached - spans[0][0]
    exchanges = [took for name, took in each if "nccl" in name.lower()]
    longest = sorted(by_name.items(), key=lambda item: -item[1])[:_KERNELS]
    return {
        "batch": batch,
        "kernels": len(spans),
        "traced_ms": whole / 1e3,
        "idle": 1 - busy / whole,
        "exchange": sum(exchanges) / whole,
        "exchange_median_us": median(exchanges) if exchanges else 0.0,
        "longest_gaps_us": sorted(gaps)[-10:],
        "share_of_time": {name: took / whole for name, took in longest},
    }
