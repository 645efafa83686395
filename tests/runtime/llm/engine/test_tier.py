"""KV that wanders to the host and back changes nothing that is written."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from weft.graph.sampling import Sampling
from weft.runtime.kv.advice import Advice, Dead, Pin
from weft.runtime.kv.cache import KVCache
from weft.runtime.kv.radix import Tokens
from weft.runtime.llm import restores
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.limits import Limits
from weft.runtime.llm.model import Model
from weft.runtime.llm.options import EngineOptions, EngineStats
from weft.runtime.llm.planner import Planner
from weft.runtime.llm.requests import Finished, GenerateRequest
from weft.runtime.llm.step_cost import StepCost

from .harness import Harness, counts, distinct, make_job
from .loading import KINDS, Kind, load_as

SLOTS = 256


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, make_checkpoint: Callable[[str], Any]) -> Model:
    kind: Kind = request.param
    return load_as(kind, make_checkpoint("qwen3").folder)


def conversations(model: Model, host_kv_tokens: int, **options: Any) -> tuple[list[Any], EngineStats]:
    """Eight conversations of four turns, more than the device holds; several run at a time."""
    rng = random.Random(3)
    histories = [tuple(rng.choices(range(3, 160), k=30 + 5 * n)) for n in range(8)]
    written: list[Any] = []
    fields = {"kv_tokens": SLOTS, "token_budget": 64, "max_running": 3, "verify": True} | options
    with LLMEngine(model, None, EngineOptions(host_kv_tokens=host_kv_tokens, **fields)) as engine:
        for _ in range(4):
            sampling = Sampling(max_tokens=8)
            rng.shuffle(histories)
            asked = [GenerateRequest(history, sampling=sampling) for history in histories]
            found = [events[-1] for events in run_requests(engine, asked, timeout=120)]
            assert all(isinstance(event, Finished) for event in found)
            answers = [event.ids for event in found if isinstance(event, Finished)]
            written.append(answers)
            for n, answer in enumerate(answers):
                histories[n] += (*answer, *rng.choices(range(3, 160), k=6))
        stats = engine.stats()
    assert stats.running_slots == 0
    assert stats.free_slots + stats.cached_slots == SLOTS
    assert stats.host_tokens <= host_kv_tokens
    return written, stats


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("host_kv_tokens", [200, 4096])
def test_texts_are_the_same(model: Model, host_kv_tokens: int, overlap: bool) -> None:
    without, before = conversations(model, 0, overlap=overlap)
    with_it, after = conversations(model, host_kv_tokens, overlap=overlap)
    assert with_it == without
    assert (before.restored_tokens, before.host_tokens) == (0, 0)
    assert after.restored_tokens > 0
    if host_kv_tokens > SLOTS:
        assert after.computed_tokens < 0.8 * before.computed_tokens


def test_forgetting_everything_empties_the_host_too(model: Model) -> None:
    options = EngineOptions(kv_tokens=64, host_kv_tokens=256, verify=True)
    with LLMEngine(model, None, options) as engine:
        for first in (3, 53, 103):
            request = GenerateRequest(tuple(range(first, first + 50)), sampling=Sampling(max_tokens=2))
            run_requests(engine, [request], timeout=60)
        assert engine.held("", np.arange(3)).result() == 0
        assert engine.stats().host_tokens > 0
        engine.flush()
        assert engine.held("", np.arange(3)).result() == 0
        assert (engine.stats().host_tokens, engine.stats().cached_slots) == (0, 0)


def test_more_than_the_machine_has_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match=r"host_kv_tokens = \d+ takes \d+ MiB of pinned memory; .* or 0 for"):
        LLMEngine(model, None, EngineOptions(kv_tokens=64, host_kv_tokens=1 << 40))


def test_a_cpu_has_no_host_tier_unless_told(model: Model) -> None:
    if model.device.type == "cpu":
        with LLMEngine(model, None, EngineOptions(kv_tokens=64)) as engine:
            assert engine.info.host_slots == 0


@dataclass
class _Copy:
    polls: int

    def done(self) -> bool:
        self.polls -= 1
        return self.polls < 0

    def await_on_device(self) -> None:
        self.polls = 0


@dataclass
class _SlowTier:
    """Copies that are there at the third look; no memory behind it."""

    slots: int = 1000
    token_ms: float = 0.1
    copies: list[_Copy] = field(default_factory=list)
    loaded: list[int] = field(default_factory=list)

    def save(self, slots: Tokens, host: Tokens) -> None:
        """Nothing is there to be copied."""

    def load(self, host: Tokens, slots: Tokens) -> _Copy:
        self.copies.append(_Copy(polls=2))
        self.loaded.append(len(slots))
        return self.copies[-1]

    def load_ms(self, count: int) -> float:
        return self.token_ms * count


def on_host(tier: _SlowTier, prompts: Sequence[range], total: int = 200) -> Harness:
    """A planner that has read prompts, whose KV has been evicted since."""
    harness = Harness(Planner(KVCache(total, tier), Limits(10_000, token_budget=64, max_running=8)))
    for number, prompt in enumerate(prompts, start=100):
        harness.planner.submit(make_job(number, prompt, 1))
        harness.run()
    harness.planner.submit(make_job(99, distinct(99, total), 1))
    harness.run()
    assert harness.planner.cache.on_host >= sum(map(len, prompts))
    harness.plans.clear()
    return harness


def test_others_compute_while_a_prefix_comes_back() -> None:
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)])
    planner = harness.planner
    planner.submit(make_job(1, distinct(2, 4), 20))
    harness.step()
    planner.submit(make_job(2, distinct(1, 70), 2))
    planner.submit(make_job(3, distinct(3, 10), 2))
    computed = [counts(harness.step()) for _ in range(4)]
    assert tier.loaded == [60]
    assert computed[0] == {1: 1, 3: 10}, "the one that waits is passed"
    assert [plan.get(2) for plan in computed] == [None, None, None, 10]
    harness.run()
    assert planner.restores.tokens == 60


def test_what_is_on_its_way_is_awaited_before_its_slots_are_used_afresh() -> None:
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)])
    harness.planner.submit(make_job(1, distinct(2, 4), 20))
    harness.step()
    harness.planner.submit(make_job(2, distinct(1, 70), 2))
    harness.step()
    assert tier.copies[0].polls > 0
    harness.planner.reset()
    assert tier.copies[0].polls == 0
    harness.planner.check()
    harness.planner.submit(make_job(3, distinct(1, 70), 2))
    harness.run()
    assert tier.loaded == [60], "what the host held has been forgotten, too"


def test_with_nobody_else_the_device_waits() -> None:
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)])
    harness.planner.submit(make_job(2, distinct(1, 70), 2))
    assert counts(harness.step()) == {2: 10}
    assert tier.copies[0].polls == 0


def test_two_that_want_the_same_prefix_share_one_copy() -> None:
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)])
    harness.planner.submit(make_job(1, distinct(2, 4), 20))
    harness.step()
    harness.planner.submit(make_job(2, [*distinct(1, 60), 7, 7], 2))
    harness.planner.submit(make_job(3, [*distinct(1, 60), 8, 8], 2))
    harness.run()
    assert tier.loaded == [60]
    assert [job.cached_tokens for job in harness.done if job.id in (2, 3)] == [60, 60]


@pytest.mark.parametrize(("token_ms", "loads"), [(0.9, [60]), (1.1, [])])
def test_what_is_quicker_computed_is_not_copied(token_ms: float, loads: list[int]) -> None:
    tier = _SlowTier(token_ms=token_ms)
    harness = on_host(tier, [distinct(1, 60)])
    harness.planner.cost = StepCost(token_ms=1.0)
    harness.planner.submit(make_job(2, distinct(1, 70), 2))
    harness.run()
    assert tier.loaded == loads


def test_what_is_on_its_way_gives_way_to_those_who_run() -> None:
    """The one that decodes alone needs the slots that a restore holds."""
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)], total=100)
    planner = harness.planner
    planner._output_fraction = 0.05
    planner.submit(make_job(1, distinct(2, 20), 70))
    harness.step()
    planner.submit(make_job(2, distinct(1, 62), 2, arrival=1.0))
    harness.step()
    assert tier.loaded == [60]
    tier.copies[0].polls = 1000
    harness.run()
    assert {job.id for job in harness.done} >= {1, 2}
    assert planner.retractions == 0


def advise(planner: Planner, prompt: range, advice: Advice, now: float = 0.0) -> None:
    planner.cache.advise("", np.array(prompt, dtype=np.int64), advice, now)


def test_what_is_expected_comes_back_before_it_is_asked_for() -> None:
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)])
    planner = harness.planner
    advise(planner, distinct(1, 60), Pin(1e6, begins=100.0), harness.now)
    assert not planner.prefetch(99.0)
    assert planner.restores.wait_s(99.0) == 1.0
    assert planner.prefetch(100.0)
    assert tier.loaded == [60]
    assert planner.restores.wait_s(100.0) == pytest.approx(60 * 0.1e-3)
    assert not planner.prefetch(101.0), "it is on its way"
    assert not planner.prefetch(102.0)
    assert planner.prefetch(103.0), "it has come"
    planner.check()
    harness.now = 110.0
    planner.submit(make_job(1, distinct(2, 4), 20))
    harness.step()
    planner.submit(make_job(2, distinct(1, 70), 2))
    assert counts(harness.step()) == {1: 1, 2: 10}, "it does not wait"
    harness.run()
    assert (tier.loaded, planner.restores.tokens, planner.restores.tokens_ahead) == ([60], 0, 60)


def test_what_is_long_comes_back_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restores, "_AHEAD", 25)
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)])
    planner = harness.planner
    advise(planner, distinct(1, 60), Pin(1e6, begins=100.0), harness.now)
    for now in range(100, 120):
        planner.prefetch(float(now))
    assert tier.loaded == [25, 25, 10]


def test_while_somebody_waits_to_be_admitted_nothing_comes_back_ahead() -> None:
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)])
    planner = harness.planner
    advise(planner, distinct(1, 60), Pin(1e6, begins=100.0), harness.now)
    planner.submit(make_job(1, distinct(2, 4), 2))
    assert not planner.prefetch(100.0)
    assert tier.loaded == []


def test_who_comes_while_a_prefix_comes_back_ahead_waits_for_that_copy() -> None:
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)])
    planner = harness.planner
    advise(planner, distinct(1, 60), Pin(1e6, begins=100.0), harness.now)
    harness.now = 100.0
    planner.submit(make_job(1, distinct(2, 4), 20))
    harness.step()
    planner.prefetch(harness.now)
    planner.submit(make_job(2, distinct(1, 70), 2))
    planner.submit(make_job(3, distinct(1, 70), 2))
    harness.step()
    planner.cancel(next(job for job in planner.waiting if job.id == 3))
    harness.run()
    assert tier.loaded == [60]
    assert next(job for job in harness.done if job.id == 2).cached_tokens == 60


def test_what_comes_back_ahead_gives_way_to_those_who_run() -> None:
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)], total=100)
    planner = harness.planner
    planner.submit(make_job(1, distinct(2, 20), 70))
    harness.step()
    advise(planner, distinct(1, 60), Pin(1e6, begins=100.0), harness.now)
    harness.now = 100.0
    assert planner.prefetch(harness.now)
    tier.copies[0].polls = 1000
    harness.run()
    assert 1 in {job.id for job in harness.done}
    assert planner.retractions == 0


def test_a_prefetch_is_over_with_all_that_is_cached() -> None:
    tier = _SlowTier()
    harness = on_host(tier, [distinct(1, 60)])
    planner = harness.planner
    advise(planner, distinct(1, 60), Pin(1e6, begins=100.0), harness.now)
    assert planner.prefetch(100.0)
    planner.cache.flush()
    planner.reset()
    assert tier.copies[0].polls == 0
    assert not planner.prefetch(101.0)
    planner.check()


def agents(
    model: Model, advice: Callable[[float], Advice], host_kv_tokens: int = 4096
) -> tuple[Any, EngineStats]:
    """Four agents of three turns one after the other; what is advised of each when its turn is over."""
    rng = random.Random(5)
    histories = [tuple(rng.choices(range(3, 160), k=60)) for _ in range(4)]
    written: list[Any] = []
    options = EngineOptions(kv_tokens=160, host_kv_tokens=host_kv_tokens, token_budget=64, verify=True)
    with LLMEngine(model, None, options) as engine:
        for _ in range(3):
            for n, history in enumerate(histories):
                ((*_, last),) = run_requests(
                    engine, [GenerateRequest(history, sampling=Sampling(max_tokens=6))], timeout=60
                )
                assert isinstance(last, Finished)
                written.append(last.ids)
                known = np.array([*history, *last.ids], dtype=np.int64)
                engine.advise("", known, advice(time.monotonic()))
                histories[n] = (*history, *last.ids, *rng.choices(range(3, 160), k=5))
            engine.held("", np.arange(3)).result(10)  # whoever is idle may go on
        stats = engine.stats()
    return written, stats


def test_texts_do_not_depend_on_what_comes_back_ahead(model: Model) -> None:
    expected, before = agents(model, lambda now: None)
    for advice in (
        lambda now: Pin(now + 60.0, now + 0.005),
        lambda now: Pin(now + 60.0, now + 1e-6),
        lambda now: Pin(now + 0.02, now + 0.01),
        lambda now: Dead(),
    ):
        written, _ = agents(model, advice)
        assert written == expected
    written, without = agents(model, lambda now: Pin(now + 60.0, now + 0.005), host_kv_tokens=0)
    assert written == expected
    assert (before.prefetched_tokens, without.prefetched_tokens) == (0, 0)


def test_an_engine_that_is_idle_wakes_for_what_is_expected(model: Model) -> None:
    first, second = (tuple(range(start, start + 60)) for start in (3, 80))
    options = EngineOptions(kv_tokens=100, host_kv_tokens=512, token_budget=64, verify=True)
    with LLMEngine(model, None, options) as engine:
        for prompt in (first, second):
            run_requests(engine, [GenerateRequest(prompt, sampling=Sampling(max_tokens=2))], timeout=60)
        now = time.monotonic()
        engine.advise("", np.array(first), Pin(now + 600.0, now + 0.05))
        while not engine.stats().prefetched_tokens:
            time.sleep(0.001)
            assert time.monotonic() < now + 60, "nothing has come back"
        stats = engine.stats()
        assert (stats.restored_tokens, stats.running_requests) == (0, 0)
        further = GenerateRequest((*first, *second[:20]), sampling=Sampling(max_tokens=6))
        ((*_, after),) = run_requests(engine, [further], timeout=60)
        assert engine.stats().restored_tokens == 0
    with LLMEngine(model, None, EngineOptions(kv_tokens=100, token_budget=64)) as engine:
        ((*_, expected),) = run_requests(engine, [further], timeout=60)
    assert isinstance(after, Finished)
    assert isinstance(expected, Finished)
    assert (after.ids, after.cached_tokens) == (expected.ids, 60)
