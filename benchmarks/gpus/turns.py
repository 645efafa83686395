"""Short prompts behind long contexts that are cached, as turns of agents and chats are."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import Any, Final
from unittest.mock import patch

from weft.graph.sampling import Sampling
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.gpu import runner
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.gpu.prompt_graphs import PromptGraphs
from weft.runtime.llm.options import EngineOptions

from .clocks import Clock, submit, wait
from .prompts import prompt_of

__all__ = ["turns"]

_CONTEXT: Final = 2000
_NEW: Final = (32, 128, 256, 512, 1024)
_WRITERS: Final = (0, 16, 64)  # requests that write meanwhile
_TURNS: Final = 10
_WRITTEN: Final = 900  # tokens of each, at most: more than there is time for


def turns(model: GpuModel) -> dict[str, Any]:
    """Milliseconds from a turn of so many tokens to its first one, medians, by who else writes.

    `one by one`: without graphs for prompts, all of whose kernels are then started one by one.
    """
    rows: dict[str, Any] = {}
    for writers in _WRITERS:
        for name, without in (("graphs", nullcontext()), ("one by one", _without_graphs())):
            with without:
                found = _measure(model, writers)
            for new, ms in found.items():
                rows.setdefault(f"{writers} writers", {}).setdefault(new, {})[name] = ms
        print(writers, rows[f"{writers} writers"], flush=True)
    return rows


@contextmanager
def _without_graphs() -> Iterator[None]:
    """Steps with prompts have no graphs."""
    with patch.object(runner, "_FEW", 0), patch.object(PromptGraphs, "has", return_value=False):
        yield


def _measure(model: GpuModel, writers: int) -> dict[int, float]:
    chance = random.Random(5)
    vocab = model.config.vocab_size
    settings = EngineOptions(
        kv_tokens=_WRITERS[-1] * (1000 + _WRITTEN) + 40_000, max_running=256, prompt_lookup=False
    )
    with LLMEngine(model, None, settings) as engine:
        context = prompt_of(_CONTEXT, vocab, chance)
        wait([submit(engine, context, Sampling(max_tokens=1))])
        sampling = Sampling(max_tokens=_WRITTEN)
        writing = [submit(engine, prompt_of(1000, vocab, chance), sampling) for _ in range(writers)]
        while not all(len(clock.times) > 20 for clock in writing):
            time.sleep(0.002)
        times: dict[int, list[float]] = {new: [] for new in _NEW}
        for _ in range(_TURNS):
            for new, taken in times.items():
                began = time.perf_counter()
                clock: Clock = submit(engine, context + prompt_of(new, vocab, chance), Sampling(max_tokens=1))
                wait([clock])
                taken.append((clock.times[0] - began) * 1e3)
        assert not any(clock.done for clock in writing), "those who write were done before"
    return {new: median(taken) for new, taken in times.items()}
