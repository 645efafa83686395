"""Models of engines: what takes how long, what is shared, and that no token of KV is lost."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest

from weft.runtime.kv.advice import Pin
from weft.runtime.simulator.batches import BatchModel, Call
from weft.runtime.simulator.cache import CacheModel
from weft.runtime.simulator.clock import Clock
from weft.runtime.simulator.llm import Job, LlmModel
from weft.runtime.simulator.profiles import LLAMA_8B_H200, BatchProfile, LlmProfile

from .conftest import LLM, path, small


def serve(*jobs: Job, llm: LlmProfile = LLM, at: tuple[float, ...] = ()) -> LlmModel:
    """Let a model do all of these."""
    clock = Clock()
    model = LlmModel(llm, clock)
    for number, job in enumerate(jobs):
        clock.at(at[number] if at else 0.0, partial(model.submit, job))
    assert clock.run()
    assert not model.running
    assert not model.waiting
    assert model.cache.running == pytest.approx(0)
    assert model.cache.locked == pytest.approx(0)
    return model


def job(*texts: tuple[str, int], writes: int = 0, expected: float | None = None) -> Job:
    prompt = path(*texts)
    written = [*prompt, *path(*texts, (f"answer to {texts}", writes))[-1:]] if writes else []
    return Job(prompt, lambda done: None, writes, float(writes if expected is None else expected), written)


def test_the_clock_keeps_the_order_of_times_and_of_what_was_set_for_the_same_time() -> None:
    clock, seen = Clock(), list[str]()
    clock.at(2.0, lambda: seen.append("c"))
    clock.at(1.0, lambda: clock.after(0.5, lambda: seen.append("between")))
    clock.at(1.0, lambda: seen.append("a"))
    clock.at(1.0, lambda: seen.append("b"))
    clock.at(1.7, lambda: seen.append("never")).call_off()
    assert not clock.run(until=1.2)
    assert (clock.now, seen) == (1.2, ["a", "b"])
    assert clock.run()
    assert seen == ["a", "b", "between", "c"]


def test_a_job_alone_takes_what_its_costs_say() -> None:
    one = job(("a", 150), writes=11)
    serve(one)
    assert one.first_token == pytest.approx(0.150)
    assert one.finished == pytest.approx(0.250), "the first token comes with the prompt"


def test_decodes_share_their_steps_and_prompts_are_read_beside_them() -> None:
    jobs = [job((f"{n}", 50), writes=21) for n in range(2)]
    serve(*jobs)
    assert [j.finished for j in jobs] == pytest.approx([0.3, 0.3])
    first, late = job(("a", 50), writes=101), job(("b", 100), writes=1)
    serve(first, late, at=(0.0, 0.5))
    assert late.finished == pytest.approx(0.5 + 0.110 + 0.011, abs=0.011), "in the next two steps"
    assert first.finished == pytest.approx(0.05 + 1.0 + 0.1, abs=0.02)


def test_a_step_reads_what_contexts_have_in_common_once_where_the_engine_can() -> None:
    steps = tuple(replace(point, ms=point.batch * point.context / 100) for point in LLM.costs.decode)
    costs = replace(LLM.costs, decode=steps)
    llm = replace(LLM, costs=costs, token_budget=10_000)
    seconds = {}
    for shares in (True, False):
        jobs = [job(("head", 900), (f"{n}", 100), writes=11) for n in range(4)]
        serve(job(("head", 900)), *jobs, llm=replace(llm, shares_prefixes=shares), at=(0.0, *[5.0] * 4))
        seconds[shares] = jobs[0].finished - jobs[0].first_token
    assert seconds[False] == pytest.approx(10 * 4 * 1006 / 1e5, rel=0.01)
    assert seconds[True] == pytest.approx(10 * (900 + 4 * 106) / 1e5, rel=0.01)


def test_the_step_after_a_prompt_takes_longer_for_all_that_is_written() -> None:
    llm = replace(LLM, after_prompt_ms=7.0)
    first, late, brief = job(("a", 50), writes=101), job(("b", 90), writes=11), job(("c", 50), writes=1)
    serve(first, late, llm=llm, at=(0.0, 0.5))
    assert first.finished == pytest.approx(0.05 + 1.0 + 0.09 + 2 * 0.007)
    assert late.finished - late.first_token == pytest.approx(0.1 + 0.007)
    serve(brief, llm=llm)
    assert brief.finished == pytest.approx(0.05), "nothing is written after it"


def test_what_was_read_before_or_is_being_read_is_not_read_again() -> None:
    jobs = [job(("head", 80), (f"{n}", 10), writes=2) for n in range(4)]
    serve(*jobs)
    assert sum(j.computed for j in jobs) == 80 + 4 * 10
    again = [job(("head", 80), ("0", 10), writes=2) for _ in range(3)]
    serve(*again, at=(0.0, 1.0, 2.0))
    assert [j.computed for j in again] == [90, 1, 1], "one token must be read to write"
    first = job(("q", 40), writes=8)
    follow = Job([*first.written_path, *path(("q", 40), ("a", 8), ("more", 5))[-1:]], lambda done: None)
    model = serve(first)
    assert model.cache.match(follow.path, 0.0) == 48, "what was written is held as well"


def test_a_pool_that_runs_dry_sets_the_least_advanced_back_and_all_end() -> None:
    jobs = [job((f"{n}", 40), writes=60, expected=1.0) for n in range(4)]
    model = serve(*jobs, llm=small(210))
    assert model.retractions > 0
    assert all(j.finished > 0 for j in jobs)


def test_expected_output_keeps_jobs_waiting_instead() -> None:
    jobs = [job((f"{n}", 40), writes=60) for n in range(4)]
    assert serve(*jobs, llm=small(210)).retractions == 0


def test_a_cancelled_job_frees_what_it_had_and_is_not_heard_of() -> None:
    clock = Clock()
    model = LlmModel(LLM, clock)
    heard: list[Job] = []
    jobs = [Job(path((f"{n}", 50)), heard.append, 100, 100.0) for n in range(3)]
    for each in jobs:
        model.submit(each)
    clock.run(until=0.3)
    model.cancel(jobs[0])
    clock.run()
    assert heard == jobs[1:]
    assert model.cache.running == pytest.approx(0)


def test_steps_taken_at_once_give_the_same_times_as_steps_taken_singly() -> None:
    """Arrivals that change nothing for a job cut its steps into pieces, not its time."""
    alone, cut = job(("a", 100), writes=300), job(("a", 100), writes=300)
    serve(alone, llm=LLAMA_8B_H200)
    nothing = [job((f"n{n}", 1)) for n in range(5)]
    serve(cut, *nothing, llm=LLAMA_8B_H200, at=(0.0, *(0.1 * n for n in range(1, 6))))
    assert cut.finished == pytest.approx(alone.finished, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_every_token_of_the_pool_has_one_owner(seed: int) -> None:
    """Random jobs over a tree of prompts in a small pool, some cancelled."""
    rng = random.Random(seed)
    clock = Clock()
    model = LlmModel(small(600), clock)
    jobs: list[Job] = []
    for _ in range(150):
        depth = rng.randint(1, 4)
        texts = [(f"{level}{rng.randint(0, 1)}", 20 + 7 * level) for level in range(depth)]
        jobs.append(job(*texts, (f"own {len(jobs)}", 5), writes=rng.choice((0, 1, 30)), expected=8.0))
        clock.at(rng.uniform(0, 20), partial(model.submit, jobs[-1]))
    for victim in rng.sample(jobs, 20):
        clock.at(rng.uniform(0, 25), partial(model.cancel, victim))
    time = 0.0
    while not clock.run(until=time):
        cache = model.cache
        assert cache.free >= -1e-6
        assert min(cache.running, cache.locked, cache.evictable) >= -1e-6
        held = sum(node.tokens for node in cache._nodes.values())
        assert cache.locked + cache.evictable == pytest.approx(held)
        assert sum(j.owned for j in model.running) == pytest.approx(cache.running)
        time += 0.25
    assert not model.running
    assert not model.waiting
    assert (model.cache.running, model.cache.locked) == pytest.approx((0, 0))


def test_what_was_used_last_stays_and_a_locked_path_always() -> None:
    cache = CacheModel(100)
    for number, name in enumerate("abc"):
        cache.insert(path(("root", 10), (name, 20)), float(number))
    cache.match(path(("root", 10), ("a", 20)), 5.0)
    key = cache.lock(path(("root", 10), ("b", 20)))
    cache.make_room(50)
    assert [cache.match(path(("root", 10), (name, 20)), 6.0) for name in "abc"] == [30, 30, 10]
    cache.make_room(100)
    assert [cache.match(path(("root", 10), (name, 20)), 6.0) for name in "abc"] == [10, 30, 10]
    cache.unlock(key)
    cache.make_room(100)
    assert cache.free == 100


def test_what_is_not_expected_yet_goes_before_what_is_the_last_to_be_expected_first() -> None:
    cache = CacheModel(100)
    paths = {name: path((name, 20)) for name in "abcd"}
    for number, one in enumerate(paths.values()):
        cache.insert(one, float(number))
    for name, pin in {"a": Pin(90.0, begins=30.0), "b": Pin(90.0, begins=40.0), "c": Pin(90.0)}.items():
        cache.advise(paths[name], pin, 5.0)
    gone = []
    for left in (40, 60, 80):
        cache.make_room(left)
        gone.append([name for name, one in paths.items() if not cache.lock(one)])
        for name in set(paths) - set(gone[-1]):
            cache.unlock(paths[name][-1].key)
    assert gone == [["d"], ["b", "d"], ["a", "b", "d"]]


def test_what_comes_while_a_batch_is_computed_makes_up_the_next() -> None:
    clock, ended = Clock(), list[tuple[float, int]]()
    model = BatchModel(BatchProfile("embed", call_ms=5.0, item_ms=1.0, capacity=3), clock)
    calls = [Call(lambda c: ended.append((round(clock.now, 4), c.batch)), items=2) for _ in range(5)]
    model.submit(calls[0])
    for call in calls[1:]:
        clock.at(0.001, partial(model.submit, call))
    clock.at(0.002, lambda: model.cancel(calls[2]))
    clock.run()
    assert ended == [(0.007, 1)] + [(0.018, 3)] * 3


def test_the_given_profile_says_what_was_measured() -> None:
    costs = LLAMA_8B_H200.costs
    for point in (p for p in costs.prefill):
        assert costs.prefill_ms(point.cached, point.new) == pytest.approx(point.ms, rel=0.1)
    for step in costs.decode:
        assert costs.decode_ms(step.batch, step.context) == pytest.approx(step.ms, rel=0.25)
