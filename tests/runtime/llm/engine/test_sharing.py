"""Prefixes that the decodes of a batch share are found, read once, and change nothing that is written."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from weft.graph.sampling import Sampling
from weft.kernels.decode import decode_attention, plan_decode
from weft.kernels.dispatch import Kernel
from weft.kernels.prefix_tree import SharedPrefixes
from weft.kernels.shared_prefix import Capacity, cut_shared
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.config import ModelShape
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.gpu import runner as runner_module
from weft.runtime.llm.gpu.runner import GpuRunner
from weft.runtime.llm.gpu.sharing import Sharing, heads
from weft.runtime.llm.model import Model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Finished, GenerateRequest
from weft.runtime.llm.sequence import Sequence

from .loading import load_as


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[[str], Any]) -> Model:
    found = load_as("gpu", make_checkpoint("qwen3").folder)
    found.config = replace(found.config, eos_ids=frozenset())
    return found


@pytest.fixture
def config(model: Model) -> ModelShape:
    return model.config


def decode(shared: list[int], own: int) -> Sequence:
    """A sequence that decodes behind `shared` slots of the cache and `own` ones of its own."""
    sequence = Sequence(np.zeros(len(shared) + own, dtype=np.int64), len(shared) + own + 1)
    sequence.share(np.array(shared, dtype=np.int64))
    sequence.extend(np.arange(10_000, 10_000 + own))
    sequence.append(0)
    return sequence


def test_prefixes_are_found_anew_only_when_something_changes(config: ModelShape) -> None:
    sharing = Sharing(config, torch.float32, min_keys=8, least_saved=0)
    batch = [decode(list(range(40)), 3) for _ in range(6)]
    first = sharing.prefixes(batch)
    assert first is not None
    assert [(len(group.members), group.start, group.end) for group in first.groups] == [(6, 0, 40)]
    for sequence in batch:
        sequence.computed += 1
    assert sharing.prefixes(batch) is first
    batch[0].share(np.arange(40))
    again = sharing.prefixes(batch)
    assert again is not first
    assert again == first
    fewer = sharing.prefixes(batch[1:])
    assert fewer is not None
    assert len(fewer.own_starts) == 5


def test_what_does_not_pay_is_not_shared(config: ModelShape) -> None:
    """Four of forty keys spare the reading of 120; their plan has four parts, each written and read."""
    batch = [decode(list(range(40)), 3) for _ in range(4)]
    key = 2 * config.kv_heads * config.head_dim * 4
    gain = 120 * key - 4 * 2 * config.heads * config.head_dim * 4
    assert Sharing(config, torch.float32, min_keys=8, least_saved=gain - 1).prefixes(batch)
    assert Sharing(config, torch.float32, min_keys=8, least_saved=gain).prefixes(batch) is None
    assert Sharing(config, torch.float32, min_keys=41, least_saved=0).prefixes(batch) is None
    assert Sharing(config, torch.float32).prefixes(batch) is None


def test_many_short_spans_become_fewer_long_ones(config: ModelShape) -> None:
    """Of a chain in which each shares a bit more, as much is shared as a graph has room for."""
    batch = [decode(list(range(200 + 8 * number)), 3) for number in range(64)]
    found = Sharing(config, torch.float32, min_keys=8, least_saved=0).prefixes(batch)
    assert found is not None
    numbers = heads(config)
    assert cut_shared(found, **numbers)[1].within(Capacity.of(64, **numbers))


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode attention by Triton's kernels, on whatever device."""
    run = Kernel.__call__
    kernels = (decode_attention, plan_decode)

    def call(kernel: Kernel[..., Any], *args: Any, **kwargs: Any) -> Any:
        return (kernel.triton if kernel in kernels else lambda *a, **k: run(kernel, *a, **k))(*args, **kwargs)

    monkeypatch.setattr(Kernel, "__call__", call)


@pytest.mark.usefixtures("triton")
def test_texts_are_the_same(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two families with a common head: a tree of two levels; some read while others write."""
    chance = random.Random(3)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(chance.choices(range(3, 160), k=count))

    monkeypatch.setattr(
        runner_module,
        "Sharing",
        lambda config, dtype: Sharing(config, dtype, min_keys=8, least_saved=0),
    )
    shared: list[SharedPrefixes] = []
    found = GpuRunner._shared

    def noted(runner: GpuRunner, decodes: Any) -> SharedPrefixes | None:
        prefixes = found(runner, decodes)
        if prefixes is not None:
            shared.append(prefixes)
        return prefixes

    monkeypatch.setattr(GpuRunner, "_shared", noted)
    head = ids(70)
    families = [head + ids(20), head + ids(30)]
    requests = [
        GenerateRequest(families[number % 2] + ids(3 + number), sampling=Sampling(max_tokens=3 + number))
        for number in range(4)
    ]
    texts = []
    for sharing in (True, False):
        options = EngineOptions(
            kv_tokens=2048,
            token_budget=80,
            shared_prefixes=sharing,
            prompt_lookup=False,
            verify=True,
            max_running=8,
        )
        with LLMEngine(model, None, options) as engine:
            assert engine.info.shares_prefixes == sharing
            ended = [events[-1] for events in run_requests(engine, requests, timeout=120)]
        assert all(isinstance(event, Finished) for event in ended)
        texts.append([event.ids for event in ended if isinstance(event, Finished)])
        if sharing:
            steps = len(shared)
    assert texts[0] == texts[1]
    assert len(shared) == steps > 0, "only the engine that shares shares"
    assert max(len(prefixes.groups) for prefixes in shared) == 3
