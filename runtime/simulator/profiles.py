"""What modelled workers can do: measured or given."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.runtime.scheduler.events import EngineSpec

from .spread import Spread

__all__ = ["LLAMA_8B_H200", "BatchProfile", "LlmProfile"]


@dataclass(frozen=True)
class LlmProfile:
    """A language model on a device."""

    costs: ModelCosts
    kv_slots: int  # tokens
    token_budget: int = 512  # that one step computes
    max_running: int = 64  # requests at once
    name: str = "m"
    step_ms: Sequence[tuple[int, float]] = ()
    """What a step takes that writes for so many requests, without their contexts, where that was measured."""
    prompt_ms: float = 0.0  # of each prompt beyond the first that a step reads
    after_prompt_ms: float = 0.0  # that the first step with texts takes longer after one that reads
    spread: Spread | None = None  # of what steps take, where that was measured
    shares_prefixes: bool = False  # whether a step reads what several contexts have in common once
    kv_token_bytes: int = 0  # of a token's KV; 0: other workers cannot have it
    link_bytes_per_ms: float = (
        1e6  # between its worker and others, in either direction, for all transfers together
    )
    link_ms: float = 1.0  # from asking a worker for KV until it has heard that

    @cached_property
    def steps(self) -> Callable[[int], float]:
        """The milliseconds of a step that writes for so many requests, without their contexts."""
        base, each, _ = self.costs.decode_terms
        if not self.step_ms:
            return lambda count: base + each * count
        counts, times = [count for count, _ in self.step_ms], [ms for _, ms in self.step_ms]

        def between(count: int) -> float:
            at = bisect_left(counts, count)
            if at == len(counts):
                return times[-1] + each * (count - counts[-1])
            if not at:
                return times[0]
            share = (count - counts[at - 1]) / (counts[at] - counts[at - 1])
            return times[at - 1] + share * (times[at] - times[at - 1])

        return between

    @property
    def spec(self) -> EngineSpec:
        """How a worker with it announces itself."""
        return EngineSpec(
            "llm",
            self.name,
            self.max_running,
            kv_slots=self.kv_slots,
            costs=self.costs,
            kv_layout=self.name if self.kv_token_bytes else "",
            kv_token_bytes=self.kv_token_bytes,
            shares_prefixes=self.shares_prefixes,
        )


@dataclass(frozen=True)
class BatchProfile:
    """An engine that computes batches, one after another: so long for each call, and for each item in it."""

    kind: str
    name: str = ""
    call_ms: float = 2.0
    item_ms: float = 1.0
    batch: int = 32  # items beyond which a larger batch gains nothing
    capacity: int = 64

    @property
    def spec(self) -> EngineSpec:
        """How a worker with it announces itself."""
        each = self.call_ms / self.batch + self.item_ms
        return EngineSpec(self.kind, self.name, self.capacity, self.batch, each)


LLAMA_8B_H200: Final = LlmProfile(
    costs=ModelCosts(
        prefill=(
            # 1,000 tokens at batch 1 and 32: 40,400 and 42,900 tokens/s.
            PrefillPoint(0, 1000, 24.8),
            PrefillPoint(0, 4000, 96.0),
            # Attention adds 4·32·4096 operations a pair of tokens to the 2·8.0e9 of a token: a third at 10k.
            PrefillPoint(8000, 1000, 29.5),
            PrefillPoint(0, 16000, 470.0),
            PrefillPoint(32000, 1000, 47.0),
        ),
        decode=(
            # tokens/s at batch 1, 8, 32, 128, 256, with 1,000 tokens read and 128 of 256 written: 200, 1,494,
            # 5,013, 11,667, 13,922.
            DecodePoint(1, 1128, 5.0),
            DecodePoint(8, 1128, 5.35),
            DecodePoint(32, 1128, 6.4),
            DecodePoint(128, 1128, 11.0),
            DecodePoint(256, 1128, 18.4),
            # A token's KV is 128 KiB, read at 0.73 of 87 % of 4.8 TB/s: 4.3e-5 ms.
            DecodePoint(64, 4096, 17.5),
            DecodePoint(64, 8192, 28.8),
        ),
        efficient_batch=128,
    ),
    kv_slots=870_000,
    token_budget=2048,
    max_running=256,
    shares_prefixes=True,
    kv_token_bytes=131_072,  # 2 · 32 layers · 8 heads · 128 · 2 bytes
    link_bytes_per_ms=25e6,
)
"""Llama-3.1-8B in bf16 on one H200.

The measured points are those of vLLM 0.26.0 (dummy weights, prefix cache off, one run); those at other
lengths, and the 870,000 tokens that fit into 90 % of 139 GiB beside the weights, follow from the roofline
(87 % of 4.8 TB/s and 68 % of 989 TFLOPS, of which vLLM reaches 73 %). That KV goes from worker to worker at
25 GB/s is an assumption: half of the 400 Gb/s that servers with such GPUs have for each of them.
"""
