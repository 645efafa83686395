"""An engine whose model two processes share writes what one with all of it does, and ends with either."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.config import read_config
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.errors import ParallelError
from weft.runtime.llm.gpu.executor import Executor
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.handover import KvSpan
from weft.runtime.llm.loader import choose_devices
from weft.runtime.llm.model import Model, _load_part, load_model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.parallel.share import share
from weft.runtime.llm.requests import (
    Delta,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    PrefillRequest,
    Request,
    Scored,
    ScoreRequest,
)

from .loading import load_as

DEVICE = "cuda" if torch.cuda.device_count() > 1 else "cpu"
FAMILY = "qwen3"
RANDOM = random.Random(11)
HEAD = tuple(RANDOM.choices(range(3, 160), k=150))
REQUESTS: list[Request] = [
    GenerateRequest(
        (*HEAD[: number % 3 * 75], *RANDOM.choices(range(3, 160), k=RANDOM.randrange(1, 40))),
        sampling=Sampling(
            max_tokens=RANDOM.randrange(1, 30),
            temperature=number % 4 // 3,
            seed=number,
            ignore_eos=number % 3 > 0,
        ),
        logprobs=1 if number % 7 == 0 else None,
    )
    for number in range(24)
]
REQUESTS.append(ScoreRequest(HEAD[:20], ((5, 6), (7,), (8, 9, 10))))
ENDLESS = GenerateRequest((7, 8, 9), sampling=Sampling(max_tokens=1500, ignore_eos=True))


@pytest.fixture(scope="module")
def whole(make_checkpoint: Callable[[str], Any]) -> GpuModel:
    folder = make_checkpoint(FAMILY).folder
    model = load_as("gpu", folder) if DEVICE == "cpu" else load_model(folder, dtype="float32", device=DEVICE)
    assert isinstance(model, GpuModel)
    return model


@pytest.fixture(scope="module")
def shared(make_checkpoint: Callable[[str], Any]) -> Iterator[GpuModel]:
    model = load(make_checkpoint(FAMILY).folder)
    yield model
    model.close()


def load(folder: Path) -> GpuModel:
    model = load_model(folder, dtype="float32", device=DEVICE, tensor_parallel=2)
    assert isinstance(model, GpuModel)
    return model


def answers(model: Model, **options: Any) -> tuple[list[tuple[int, ...]], Any]:
    with LLMEngine(model, None, EngineOptions(verify=True, **options)) as engine:
        found = [events[-1] for events in run_requests(engine, REQUESTS, timeout=120)]
        stats = engine.stats()
        assert stats.running_slots == 0
        if options["kv_tokens"] < 1000 and not stats.host_tokens:
            assert stats.free_slots == 0, "the pool is too large for slots to be used anew"
    assert all(isinstance(event, Finished | Scored) for event in found)
    texts = [event.ids for event in found if isinstance(event, Finished)]
    return texts, np.concatenate([event.logprobs[0] for event in found if isinstance(event, Scored)])


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(("kv_tokens", "max_running"), [(4096, 64), (300, 12)])
def test_texts_are_the_same(
    whole: GpuModel,
    shared: GpuModel,
    overlap: bool,
    kv_tokens: int,
    max_running: int,
    ahead: list[int],
) -> None:
    options = {"kv_tokens": kv_tokens, "max_running": max_running, "token_budget": 64, "overlap": overlap}
    texts, weights = answers(shared, **options)
    expected, weighed = answers(whole, **options)
    assert texts == expected
    np.testing.assert_allclose(weights, weighed, atol=1e-3)
    assert bool(ahead) == overlap


@pytest.mark.parametrize("family", ["mixtral_sliding", "qwen2_moe", "qwen3_moe"])
def test_experts_are_cut_by_their_inner_width(family: str, make_checkpoint: Callable[[str], Any]) -> None:
    folder = make_checkpoint(family).folder
    expected, weighed = answers(load_as("gpu", folder), kv_tokens=4096, token_budget=64)
    model = load(folder)
    try:
        texts, weights = answers(model, kv_tokens=4096, token_budget=64)
    finally:
        model.close()
    assert texts == expected
    np.testing.assert_allclose(weights, weighed, atol=1e-3)


def test_a_table_that_grows_grows_everywhere(whole: GpuModel, shared: GpuModel) -> None:
    """More options than the table has rows are weighed in a step."""
    request = ScoreRequest(HEAD[:30], tuple((3 + n, 4 + n, 5) for n in range(100)))
    found = []
    for model in (whole, shared):
        with LLMEngine(model, None, EngineOptions(kv_tokens=4096, max_running=2, token_budget=256)) as engine:
            ((event,),) = run_requests(engine, [request], timeout=60)
        assert isinstance(event, Scored)
        found.append(np.array(event.logprobs))
    np.testing.assert_allclose(found[1], found[0], atol=1e-3)


def test_what_an_engine_says_of_it(shared: GpuModel, whole: GpuModel) -> None:
    assert (shared.ranks, whole.ranks) == (2, 1)
    with LLMEngine(shared, None, EngineOptions(kv_tokens=512)) as engine:
        info = engine.info
    assert info.ranks == 2
    assert info.host_slots == 0
    assert info.kv_shape == (2, 1, 32)
    assert 2 * info.kv_bytes_per_token == whole.kv_bytes_per_token


def test_kv_of_some_heads_goes_nowhere(shared: GpuModel) -> None:
    with pytest.raises(ValueError, match="host_kv_tokens must be 0"):
        LLMEngine(shared, None, EngineOptions(kv_tokens=512, host_kv_tokens=100))
    with LLMEngine(shared, None, EngineOptions(kv_tokens=512)) as engine:
        run_requests(engine, [PrefillRequest(HEAD)], timeout=60)
        ids = np.array(HEAD)
        assert engine.held("", ids).result(10) == len(HEAD)
        assert engine.take_kv("", ids, 0, 0.0).result(10) is None
        span = KvSpan(0, torch.zeros(2, 40, 2, 32), torch.zeros(2, 40, 2, 32))
        with pytest.raises(LookupError, match="several processes share"):
            engine.give_kv("other", ids[:40], span).result(10)


def test_an_engine_gives_back_what_it_has_captured(whole: GpuModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else NCCL's connections could not end before their graphs, which nobody replays any more."""
    closed: list[Executor] = []
    monkeypatch.setattr(Executor, "close", lambda executor: closed.append(executor))
    with LLMEngine(whole, None, EngineOptions(kv_tokens=64)):
        assert not closed
    assert len(closed) == 1


class Watch:
    """Counts the tokens of a request, and keeps its end."""

    def __init__(self) -> None:
        self.tokens = threading.Semaphore(0)
        self.ended = threading.Event()
        self.last: Event | None = None

    def __call__(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Delta):
                self.tokens.release()
            if isinstance(event, Finished | Failed):
                self.last = event
                self.ended.set()

    def failure(self) -> Exception:
        assert self.ended.wait(30), "it hangs"
        assert isinstance(self.last, Failed)
        return self.last.error


def test_requests_fail_when_a_process_is_killed(make_checkpoint: Callable[[str], Any]) -> None:
    model = load(make_checkpoint(FAMILY).folder)
    assert model.team is not None
    (pid,) = model.team.pids
    second = "rank 1 on cpu:" if DEVICE == "cpu" else "rank 1 on cuda:1:"
    told = threading.Event()
    model.on_failure(told.set)
    with LLMEngine(model, None, EngineOptions(kv_tokens=4096, max_running=2)) as engine:
        watches = [Watch() for _ in range(3)]
        for watch in watches:  # the third one waits for a place
            engine.submit(ENDLESS, watch)
        for _ in range(10):
            assert watches[0].tokens.acquire(timeout=30)
        os.kill(pid, signal.SIGKILL)
        for watch in watches:
            error = watch.failure()
            assert isinstance(error, ParallelError)
            assert str(error) == f"{second} its process was killed by SIGKILL"
        assert told.wait(10)
        late = Watch()
        engine.submit(ENDLESS, late)
        assert isinstance(late.failure(), ParallelError)
        assert engine.stats().running_slots == 0
    with pytest.raises(ParallelError, match="SIGKILL"):
        LLMEngine(model, None, EngineOptions(kv_tokens=64))
    again = threading.Event()
    model.on_failure(again.set)
    assert again.is_set()
    model.close()
    model.close()


def test_a_part_that_cannot_be_loaded_is_an_error(make_checkpoint: Callable[[str], Any]) -> None:
    folder = make_checkpoint(FAMILY).folder
    nowhere = torch.device("cuda", 99)
    build = partial(_load_part, folder, read_config(folder), torch.float32, "none")
    with pytest.raises(ParallelError, match=r"^rank 1 on cuda:99: \w+: "):
        share(build, [torch.device("cpu"), nowhere])


def test_parts_in_eight_bits_say_nearly_what_the_whole_says(
    make_checkpoint: Callable[[str], Any], whole: GpuModel
) -> None:
    folder = make_checkpoint(FAMILY).folder
    build = partial(_load_part, folder, read_config(folder), torch.float32, "fp8")
    model = share(build, choose_devices(DEVICE, 2))
    try:
        assert model.numbers == "fp8 and float32"
        (_, expected), (_, found) = (answers(each, kv_tokens=4096) for each in (whole, model))
    finally:
        model.close()
    assert 0 < np.abs(found - expected).max() < 0.2


LEADER = """
import sys, torch
from weft.runtime.llm.model import load_model
torch.set_num_threads(1)
model = load_model(sys.argv[1], dtype="float32", device=sys.argv[2], tensor_parallel=2)
print(*model.team.pids, flush=True)
sys.stdin.read()
"""


def test_the_others_end_with_the_first(make_checkpoint: Callable[[str], Any]) -> None:
    command = [sys.executable, "-P", "-c", LEADER, str(make_checkpoint(FAMILY).folder), DEVICE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        pid = int(leader.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        leader.kill()
    deadline = time.monotonic() + 20
    while running(pid):
        assert time.monotonic() < deadline, "it goes on alone"
        time.sleep(0.02)


def running(pid: int) -> bool:
    """Whether a process runs, which nobody may have waited for."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
