"""What an engine is told at its start, and what it tells about itself."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from .limits import Limits
from .model import Model

__all__ = [
    "EngineInfo",
    "EngineOptions",
    "EngineStats",
    "choose_host_slots",
    "choose_limits",
    "choose_slots",
]

_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_CPU_TOKENS = 64 * 1024  # default pool on a CPU, unless
_CPU_BYTES = 2 << 30  # this is less, or
_CPU_FRACTION = 8  # an eighth of the machine's memory
_CUDA_FRACTION = 0.85  # of the memory that is free once the weights are loaded
_HOST_FRACTION = 8  # the host tiers of all GPUs together take an eighth of the machine's memory by default,
_HOST_MOST = 2  # and each at most half of it when asked for more


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of an `LLMEngine`."""

    kv_tokens: int | None = None
    """Slots of the KV pool; None: as many as fit the device comfortably."""
    host_kv_tokens: int | None = None
    """Tokens whose KV, evicted from the pool, stays in the host's memory; 0: none; None: what suits the
    machine, and none on a CPU or where ranks share the model."""
    context_length: int | None = None
    """Shorter than the model's own, in tokens; None: the model's own."""
    token_budget: int | None = None
    """Tokens that one step computes: decodes first, the rest goes to chunks of prompts; None: what suits the
    device, 512 on a CPU and 2048 on a GPU."""
    max_running: int | None = None
    """Requests that share a batch; None: 64 on a CPU, 256 on a GPU."""
    aging_seconds: float = 5.0
    """Waiting this long weighs as much as one step of priority."""
    compile_threads: int = 2
    """Threads that compile grammars."""
    forced_tokens: bool = True
    """Compute text that a grammar forces in one step; what is sampled is the same."""
    prompt_lookup: bool = True
    """Draft what followed elsewhere in the context where it ended alike; what is sampled is the same. On CUDA
    steps with drafts are not begun ahead; it drafts only where that saves more."""
    cuda_graphs: bool = True
    """On CUDA, start the kernels of most steps by one call; what is computed is the same."""
    overlap: bool = True
    """On CUDA, begin a step of decodes before the tokens of the one before have been looked at."""
    shared_prefixes: bool = True
    """On CUDA, read the keys that decodes of a batch share once for all of them, where that pays."""
    verify: bool = False
    """Check the ownership of every KV slot after every step: for tests, as it takes time."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What does not change while an engine lives."""

    name: str
    family: str
    context_length: int  # tokens
    vocab_size: int
    dtype: str
    device: str
    ranks: int  # processes that share the model
    kv_bytes_per_token: int  # on each rank
    kv_shape: tuple[int, int, int]  # layers, kv_heads, head_dim; of rank 0
    total_slots: int
    host_slots: int
    max_running: int
    shares_prefixes: bool  # whether a step reads keys that several texts share once

    @classmethod
    def of(
        cls, model: Model, limits: Limits, total_slots: int, host_slots: int, *, shares_prefixes: bool
    ) -> EngineInfo:
        """Describe `model` as an engine runs it."""
        return cls(
            name=model.name,
            family=model.config.family,
            context_length=limits.context_length,
            vocab_size=model.config.vocab_size,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            ranks=model.ranks,
            kv_bytes_per_token=model.kv_bytes_per_token,
            kv_shape=(model.config.layers, model.config.kv_heads, model.config.head_dim),
            total_slots=total_slots,
            host_slots=host_slots,
            max_running=limits.max_running,
            shares_prefixes=shares_prefixes,
        )


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the start, and gauges; `free + cached + running` slots are always all slots."""

    steps: int
    cached_tokens: int
    """Prompt tokens found in the cache."""
    restored_tokens: int
    """Tokens copied back from the host, where eviction had put them, for requests that waited for them,"""
    prefetched_tokens: int
    """and those copied back ahead of their use."""
    computed_tokens: int
    """Tokens computed, decodes left out: prompts, options, and what retractions made necessary again."""
    generated_tokens: int
    """Tokens sampled, ends of sequence included."""
    drafted_tokens: int
    """Tokens computed before they were sampled, as a grammar forced them or they stand in the context,"""
    held_tokens: int
    """and those of them that were sampled: steps that were saved."""
    retractions: int
    pins_met_tokens: int
    """Cached tokens that were used while they were pinned,"""
    pins_broken_tokens: int
    """and those that were evicted although they were: nothing else was left."""
    free_slots: int
    cached_slots: int
    running_slots: int
    host_tokens: int
    """Tokens whose KV the host holds."""
    waiting_requests: int
    running_requests: int


def choose_limits(model: Model, options: EngineOptions) -> Limits:
    """What the engine's steps can bear. Raises ValueError for what makes no sense."""
    context = min(model.config.context_length, options.context_length or sys.maxsize)
    budget, running = (2048, 256) if model.device.type == "cuda" else (512, 64)
    budget = budget if options.token_budget is None else options.token_budget
    running = running if options.max_running is None else options.max_running
    return Limits(context, budget, running, options.aging_seconds)


def choose_slots(model: Model, kv_tokens: int | None) -> int:
    """The size of the KV pool in tokens: `kv_tokens`, or what the device has room for."""
    if kv_tokens is not None:
        return kv_tokens
    if model.device.type == "cuda":
        return max(int(model.free_memory() * _CUDA_FRACTION) // model.kv_bytes_per_token, 1)
    room = min(_CPU_BYTES, _memory() // _CPU_FRACTION)
    return max(min(_CPU_TOKENS, room // model.kv_bytes_per_token), 1)


def choose_host_slots(model: Model, slots: int, host_kv_tokens: int | None) -> int:
    """The size of the host tier of a pool of `slots` slots, in tokens; 0: none.

    Raises ValueError if the machine has not that much memory to give away, and for any where ranks share the
    model.
    """
    size = model.kv_bytes_per_token
    if model.ranks > 1:
        if host_kv_tokens:
            raise ValueError(
                "a model that several processes share keeps no KV on the host: host_kv_tokens must be 0"
            )
        return 0
    if host_kv_tokens is None:
        if model.device.type != "cuda":
            return 0
        return min(slots, _memory() // _HOST_FRACTION // torch.cuda.device_count() // size)
    if host_kv_tokens * size > (most := _memory() // _HOST_MOST):
        raise ValueError(
            f"host_kv_tokens = {host_kv_tokens} takes {host_kv_tokens * size >> 20} MiB of pinned memory; "
            f"half of this machine's is {most >> 20} MiB: at most {most // size} tokens, or 0 for none"
        )
    return host_kv_tokens


def _memory() -> int:
    """Bytes of memory that this process may have: the machine's, or less in a container."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no control groups of version 2, or no limit: "max"
        return machine
