"""Loads beside that of many requests which share nothing: shared prefixes, other prompts, a tight pool."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import mean, median
from typing import Any, Final

from weft.graph.sampling import Sampling
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.options import EngineOptions

from .clocks import serve, submit, wait
from .prompts import PREFIX_OUTPUT, PREFIX_REQUESTS, PREFIX_TREES, prompt_of, tree
from .timing import decode_speed, whole_seconds
from .turns import turns

__all__ = ["LOADS"]

_WRITERS: Final = 64  # requests that write beside the long prompt
_LONG: Final = 32_000
_CHUNK: Final = 2048  # tokens a step
_RESERVED: Final = 4096  # tokens that may be written
_WRITTEN: Final = 200  # and those that are, on average


def shared_prefix(model: GpuModel) -> dict[str, Any]:
    """64 requests with a prefix of 6,000 tokens, and with a tree: 3,000 tokens of all, 3,000 of a quarter."""
    report: dict[str, Any] = {}
    vocab = model.config.vocab_size
    for name, levels in PREFIX_TREES.items():
        rows: dict[str, Any] = {}
        for sharing in (False, True):
            settings = EngineOptions(
                kv_tokens=80_000,
                token_budget=8192,
                max_running=PREFIX_REQUESTS,
                shared_prefixes=sharing,
                prompt_lookup=False,
            )
            with LLMEngine(model, None, settings) as engine:
                serve(engine, tree(levels, vocab, seed=1), 8)
                engine.flush()
                before = engine.stats()
                clocks = serve(engine, tree(levels, vocab, seed=2), PREFIX_OUTPUT)
                after = engine.stats()
            speed, step = decode_speed(clocks)
            rows["shared" if sharing else "plain"] = {
                "tokens_s": speed,
                "step_ms": step * 1e3,
                "seconds": whole_seconds(clocks),
                "computed_tokens": after.computed_tokens - before.computed_tokens,
                "cached_tokens": after.cached_tokens - before.cached_tokens,
            }
        rows["times"] = rows["shared"]["tokens_s"] / rows["plain"]["tokens_s"]
        rows["times_with_reading"] = rows["plain"]["seconds"] / rows["shared"]["seconds"]
        report[name] = rows
    return report


def long_prompt(model: GpuModel) -> dict[str, Any]:
    """A prompt of 32,000 tokens that comes while 64 requests write, against the same one alone.

    A chunk is what a step reads of it. The last one is the slowest: its time is how much longer a prompt
    takes that has one chunk more.
    """
    settings = EngineOptions(
        kv_tokens=_WRITERS * 1600 + 3 * _LONG,
        token_budget=_CHUNK,
        max_running=_WRITERS + 1,
        prompt_lookup=False,
    )
    chance = random.Random(3)
    with LLMEngine(model, None, settings) as engine:
        vocab = engine.info.vocab_size

        def alone(length: int) -> float:
            began = time.perf_counter()
            wait([submit(engine, prompt_of(length, vocab, chance), Sampling(max_tokens=1))])
            return time.perf_counter() - began

        alone(_LONG)
        whole = median(alone(_LONG) for _ in range(3))
        last = whole - median(alone(_LONG - _CHUNK) for _ in range(3))
        engine.flush()
        writing = [
            submit(engine, prompt_of(1000, vocab, chance), Sampling(max_tokens=600)) for _ in range(_WRITERS)
        ]
        while not all(len(clock.times) > 100 for clock in writing):
            time.sleep(0.002)
        began = time.perf_counter()
        reading = submit(engine, prompt_of(_LONG, vocab, chance), Sampling(max_tokens=1))
        wait([*writing, reading])
        ended = reading.times[0]
        gaps = [
            after - before
            for clock in writing
            for before, after in zip(clock.times, clock.times[1:], strict=False)
            if before >= began and after <= ended
        ]
        quiet = [
            after - before
            for clock in writing
            for before, after in zip(clock.times[50:], clock.times[51:], strict=False)
            if after < began
        ]
    return {
        "chunk_tokens": _CHUNK,
        "chunk_ms": whole / (_LONG / _CHUNK) * 1e3,
        "last_chunk_ms": last * 1e3,
        "gap_before_ms": median(quiet) * 1e3,
        "longest_gap_ms": max(gaps) * 1e3,
        "median_gap_ms": median(gaps) * 1e3,
        "gap_in_chunks": max(gaps) / last,
        "prompt_s": {"alone": whole, "beside": ended - began},
    }


def tight_pool(model: GpuModel) -> dict[str, Any]:
    """256 requests that may write 4,096 tokens and write 200 on average, in a pool for 16 such outputs.

    Every 200th token of the vocabulary ends a text, and tokens are drawn from what is nearly an even
    distribution. `held` is how many requests the pool would hold if it reserved what each may write.
    """
    prompt, requests = 500, 256
    ending = copy.copy(model)
    ending.config = replace(model.config, eos_ids=frozenset(range(0, model.config.vocab_size, _WRITTEN)))
    slots = 16 * (prompt + _RESERVED)
    chance = random.Random(4)
    running: list[int] = []
    settings = EngineOptions(kv_tokens=slots, token_budget=8192, max_running=requests, prompt_lookup=False)
    with LLMEngine(ending, None, settings) as engine:
        vocab = engine.info.vocab_size
        clocks = [
            submit(
                engine,
                prompt_of(prompt, vocab, chance),
                Sampling(max_tokens=_RESERVED, temperature=1.0, seed=number),
            )
            for number in range(requests)
        ]
        while not all(clock.done for clock in clocks):
            stats = engine.stats()
            if stats.waiting_requests and stats.running_requests:
                running.append(stats.running_requests)
            time.sleep(0.005)
        wait(clocks)
        stats = engine.stats()
    held = slots // (prompt + _RESERVED)
    return {
        "requests": requests,
        "written_mean": mean(len(clock.times) for clock in clocks),
        "held_if_reserved": held,
        "running_mean": mean(running),
        "running_most": max(running),
        "times": mean(running) / held,
        "retractions": stats.retractions,
        "failed": sum(clock.failed for clock in clocks),
    }


LOADS: Final[dict[str, Callable[[GpuModel], dict[str, Any]]]] = {
    "shared-prefix": shared_prefix,
    "long-prompt": long_prompt,
    "tight-pool": tight_pool,
    "turns": turns,
}
"""Every one of them, by name."""
