"""How steps are shared: long prompts among decodes, priorities, and that nobody starves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.runtime.llm.planner import StepPlan
from weft.runtime.llm.sequence import Job
from weft.runtime.llm.step_cost import StepCost

from .harness import Harness, counts, distinct, make, make_job

_COST = StepCost(token_ms=0.1, pair_ms=1e-5)  # behind 32,000 tokens, a token takes five times as long
_DECODES_MS = 20.0


def seconds(plan: StepPlan) -> float:
    """How long the steps of a model take that is as `_COST` says; `plan` has not been committed."""
    prompts = [chunk for chunk in plan.chunks if not chunk.job.decoding]
    return (_DECODES_MS + sum(_COST.ms(chunk.sequence.computed, chunk.count) for chunk in prompts)) / 1e3


def decoding(count: int, *, priority: int = 0, max_new: int = 600, **limits: float) -> Harness:
    """A planner with so many decodes under way."""
    harness = make(total=80_000, context_length=40_000, max_running=count + 8, **limits)
    harness.step_seconds = seconds
    harness.verifies = False  # it is slow with so many slots
    for job in range(count):
        harness.planner.submit(make_job(job, distinct(job, 4), max_new, priority=priority))
    while not all(job.decoding for job in harness.planner.running) or harness.planner.waiting:
        harness.step()
    return harness


def longest_gap(harness: Harness, prompt: Job) -> float:
    """Seconds of the longest step in which the prompt was read beside decodes."""
    harness.planner.submit(prompt)
    longest = 0.0
    while prompt.generated == 0:
        before = harness.now
        assert len(harness.step().chunks) > 1
        longest = max(longest, harness.now - before)
    return longest


def test_a_long_prompt_holds_decodes_up_by_a_chunk_at_most() -> None:
    chunk_seconds = _COST.ms(0, 512) / 1e3
    harness = decoding(64, token_budget=512)
    harness.planner.cost = _COST
    assert longest_gap(harness, make_job(99, distinct(99, 32_000), 4)) <= 1.5 * chunk_seconds
    unmeasured = decoding(64, token_budget=512)
    assert longest_gap(unmeasured, make_job(99, distinct(99, 32_000), 4)) > 3 * chunk_seconds


def test_without_decodes_a_prompt_has_the_whole_budget() -> None:
    harness = make(total=40_000, context_length=40_000, token_budget=512)
    harness.planner.cost = _COST
    harness.planner.submit(make_job(1, distinct(1, 4096), 1))
    assert [counts(plan)[1] for plan in harness.run()] == [512] * 8


@pytest.mark.parametrize(("priority", "chunk"), [(0, 64), (-1, 34), (-2, 17), (-9, 16), (1, 64)])
def test_prompts_shrink_beside_decodes_that_are_more_urgent(priority: int, chunk: int) -> None:
    harness = decoding(4, token_budget=68, aging_seconds=1e9)
    harness.planner.submit(make_job(99, distinct(99, 300), 1, priority=priority, arrival=harness.now))
    assert counts(harness.step())[99] == chunk


def test_waiting_makes_the_chunks_of_a_prompt_whole_again() -> None:
    harness = decoding(4, priority=2, token_budget=260, aging_seconds=1.0)
    harness.step_seconds = lambda _: 0.25
    harness.planner.submit(make_job(99, distinct(99, 3000), 1, priority=0, arrival=harness.now))
    sizes = [counts(harness.step())[99] for _ in range(9)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[4], sizes[8]) == (65, 130, 256)


def test_less_urgent_prompts_get_what_more_urgent_ones_leave() -> None:
    harness = decoding(4, priority=1, token_budget=132, aging_seconds=1e9)
    harness.planner.submit(make_job(98, distinct(98, 50), 1, priority=1, arrival=harness.now))
    harness.planner.submit(make_job(99, distinct(99, 300), 1, priority=0, arrival=harness.now))
    plan = counts(harness.step())
    assert (plan[98], plan[99]) == (
        50,
        16,
    )  # half of the time is for the less urgent


def test_who_computes_a_prefix_for_somebody_urgent_becomes_urgent() -> None:
    harness = decoding(4, priority=3, token_budget=260, aging_seconds=1e9)
    head = [*distinct(50, 400)]
    harness.planner.submit(make_job(98, [*head, 1], 1))
    assert counts(harness.step())[98] == 32
    harness.planner.submit(make_job(99, [*head, 2], 1, priority=3))
    assert counts(harness.step())[98] == 32
    assert counts(harness.step())[98] == 256


def test_a_head_start_decides_whose_turn_it_is_and_not_how_long_others_wait() -> None:
    harness = decoding(4, priority=1, token_budget=132, aging_seconds=1e9)
    late = make_job(98, distinct(98, 300), 1, arrival=harness.now, head_start=-30.0)
    harness.planner.submit(late)
    harness.planner.submit(make_job(99, distinct(99, 300), 1, arrival=harness.now, head_start=500.0))
    plan = counts(harness.step())
    assert plan[99] == 66, "half of the time, as one that has not waited at all"
    assert 98 not in plan


def test_an_over_committed_pool_admits_more_than_reservation_would() -> None:
    """Texts that may have 4,096 tokens and have 200: reserving all would let 2 run at once."""
    harness = make(total=2 * 4196, context_length=8192, token_budget=512, max_running=256)
    harness.endings = dict.fromkeys(range(24), 200)
    for job in range(24):
        harness.planner.submit(make_job(job, distinct(job, 100), 4096, arrival=job / 1000))
    together = []
    while not harness.planner.idle:
        harness.step()
        together.append(len(harness.planner.running))
    assert max(together) >= 4
    assert sorted(together)[len(together) // 2] >= 3
    assert {job.generated for job in harness.done} == {200}
    assert len(harness.done) == 24


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_nobody_starves_beside_a_hot_prefix(data: st.DataObject) -> None:
    """Jobs come one a step, most of them with a cached head; the cold ones wait for their turn, no longer."""
    aging = data.draw(st.sampled_from([5.0, 20.0]), label="aging")
    harness = make(total=160, max_running=data.draw(st.integers(1, 6)), token_budget=24, aging_seconds=aging)
    head = [*range(60)]
    cold: set[Job] = set()
    first_admissions: list[Job] = []
    for id_ in range(60):
        is_cold = data.draw(st.integers(0, 11)) == 0
        tokens = distinct(id_ + 1, 80) if is_cold else [*head, *distinct(id_ + 1, 3)]
        priority = 0 if is_cold else data.draw(st.integers(0, 2))
        job = make_job(id_, tokens, data.draw(st.integers(1, 12)), priority=priority, arrival=harness.now)
        harness.planner.submit(job)
        cold |= {job} if is_cold else set()
        _step(harness, first_admissions)
    while not harness.planner.idle:
        _step(harness, first_admissions)
    assert len(harness.done) == 60
    for job in cold:
        earlier = first_admissions[: first_admissions.index(job)]
        assert all(other.arrival <= job.arrival + 2 * aging for other in earlier)


def _step(harness: Harness, first_admissions: list[Job]) -> None:
    """One step, in which the most urgent of those that run must advance."""
    plan = harness.step()
    first_admissions += [job for job in plan.admitted if job not in first_admissions]
    if harness.planner.running:
        ranks = [chunk.job.rank for chunk in plan.chunks]
        assert min(ranks) <= min(job.rank for job in harness.planner.running)
