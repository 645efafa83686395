"""The batch planner by itself: no tensors, a made-up clock, tokens "sampled" by the test."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.runtime.llm.errors import RequestError
from weft.runtime.llm.limits import Limits
from weft.runtime.llm.sequence import Job

from .harness import counts, distinct, make, make_job, sampled


def test_a_prompt_is_computed_in_chunks_of_the_budget() -> None:
    harness = make(token_budget=16)
    harness.planner.submit(make_job(1, distinct(1, 40), 3))
    assert [counts(plan) for plan in harness.run()] == [{1: 16}, {1: 16}, {1: 8}, {1: 1}, {1: 1}]


def test_decodes_run_beside_chunks() -> None:
    harness = make(token_budget=16)
    harness.planner.submit(make_job(1, distinct(1, 4), 9))
    harness.step()
    harness.planner.submit(make_job(2, distinct(2, 40), 2))
    assert [counts(harness.step()) for _ in range(3)] == [{1: 1, 2: 15}, {1: 1, 2: 15}, {1: 1, 2: 10}]


def test_prompts_keep_a_share_of_a_budget_that_decodes_would_use_up() -> None:
    harness = make(token_budget=4, max_running=99)
    for job in range(6):
        harness.planner.submit(make_job(job, distinct(job, 1), 40))
    while len(harness.planner.running) < 6:
        harness.step()
    harness.planner.submit(make_job(9, distinct(9, 3), 2))
    plan = harness.step()
    assert counts(plan)[9] == 1
    assert len(plan.chunks) == 7


def test_waiting_jobs_that_share_a_long_prefix_let_one_compute_it() -> None:
    harness = make(token_budget=64)
    head = [*distinct(0, 100)]
    for job in range(1, 5):
        harness.planner.submit(make_job(job, [*head, *distinct(job, 5)], 2))
    assert counts(harness.step()) == {1: 64}
    harness.run()
    assert harness.planner.computed_tokens == 100 + 4 * 5
    assert harness.planner.cached_tokens == 3 * 100


def test_a_short_shared_prefix_is_not_waited_for() -> None:
    harness = make(token_budget=64)
    for job in (1, 2):
        harness.planner.submit(make_job(job, [*range(8), *distinct(job, 5)], 2))
    assert counts(harness.step()) == {1: 13, 2: 13}


def test_first_come_first_served_within_a_priority() -> None:
    harness = make(max_running=1)
    for job, priority in ((1, 0), (2, 1), (3, 1), (4, 0)):
        harness.planner.submit(make_job(job, distinct(job, 4), priority=priority, arrival=job / 10))
    harness.run()
    assert [job.id for job in harness.done] == [2, 3, 1, 4]


def test_what_is_read_ahead_yields_to_what_somebody_waits_for() -> None:
    harness = make(token_budget=16)
    harness.planner.submit(make_job(1, distinct(1, 40), ahead=True))
    assert counts(harness.step()) == {1: 16}
    harness.planner.submit(make_job(2, distinct(2, 20), 2))
    harness.planner.submit(make_job(3, distinct(3, 9), ahead=True))
    assert [counts(plan) for plan in harness.run()] == [
        {1: 16},
        {2: 16},
        {2: 4, 1: 12},
        {2: 1, 1: 12},  # beside a decode it is given less room
        {3: 9},
    ]


def test_it_yields_no_longer_than_others_wait_for_a_priority_more() -> None:
    harness = make(max_running=1, aging_seconds=10.0)
    harness.planner.submit(make_job(1, distinct(1, 4), ahead=True, arrival=0.0))
    harness.planner.submit(make_job(2, distinct(2, 4), arrival=9.0))
    harness.planner.submit(make_job(3, distinct(3, 4), arrival=11.0))
    harness.run()
    assert [job.id for job in harness.done] == [2, 1, 3]


def test_what_is_read_ahead_does_not_yield_once_somebody_waits_for_it() -> None:
    harness = make(token_budget=16)
    head = [*distinct(0, 64)]
    harness.planner.submit(make_job(1, head, ahead=True))
    harness.step()
    harness.planner.submit(make_job(2, [*head, *distinct(2, 4)], 2))
    harness.step()
    harness.planner.submit(make_job(3, distinct(3, 16), 2))
    assert counts(harness.step()) == {1: 16}


def test_waiting_outweighs_priority_in_time() -> None:
    harness = make(max_running=1, aging_seconds=10.0)
    harness.planner.submit(make_job(1, distinct(1, 4), priority=0, arrival=0.0))
    harness.planner.submit(make_job(2, distinct(2, 4), priority=1, arrival=9.0))
    harness.planner.submit(make_job(3, distinct(3, 4), priority=1, arrival=11.0))
    harness.run()
    assert [job.id for job in harness.done] == [2, 1, 3]


def test_a_cold_request_is_not_starved_by_a_hot_prefix() -> None:
    harness = make(total=200, max_running=2)
    hot = [*range(40)]
    harness.planner.submit(make_job(0, [*hot, 900], 4))
    harness.planner.submit(make_job(1, distinct(1, 60), 4, arrival=0.5))
    for job in range(2, 30):
        harness.planner.submit(make_job(job, [*hot, *distinct(job, 3)], 4, arrival=1.0 + job))
    harness.run()
    assert 1 in [job.id for job in harness.done[:3]]


def test_admission_reserves_expected_not_maximal_output() -> None:
    harness = make(total=400, token_budget=200)
    for job in range(6):
        harness.planner.submit(make_job(job, distinct(job, 20), 150))
    assert len(harness.step().admitted) == 4  # of 95 expected slots each; of 170 possible ones only 2 fit


def test_a_dry_pool_retracts_the_job_with_the_least_progress() -> None:
    harness = make(total=60, token_budget=64)
    jobs = [make_job(job, distinct(job, 10), 40, arrival=job / 10) for job in range(3)]
    for job in jobs[:2]:
        harness.planner.submit(job)
    harness.step()
    harness.step()
    retracted: list[Job] = []
    while not retracted:
        assert not harness.planner.idle
        retracted = harness.step().retracted
    assert [job.id for job in retracted] == [1]
    generated = jobs[1].generated
    assert generated > 5
    harness.run()
    assert [job.id for job in harness.done] == [0, 1]
    assert jobs[1].trunk.tokens[10:].tolist() == [(1 + index) % 50 for index in range(40)]


def test_low_priority_is_retracted_before_little_progress() -> None:
    harness = make(total=60, token_budget=64)
    harness.planner.submit(make_job(0, distinct(0, 10), 40, priority=0))
    harness.step()
    harness.planner.submit(make_job(1, distinct(1, 10), 40, priority=1, arrival=1.0))
    retracted: list[Job] = []
    while not retracted:
        assert not harness.planner.idle
        retracted = harness.step().retracted
    assert [job.id for job in retracted] == [0]


def test_branches_share_the_trunk_and_are_computed_together() -> None:
    harness = make(token_budget=64)
    job = make_job(1, distinct(1, 30), tails=([1, 2, 3], [4], [5, 6]))
    harness.planner.submit(job)
    assert counts(harness.step()) == {1: 30}
    plan = harness.step()
    assert [chunk.count for chunk in plan.chunks] == [3, 1, 2]
    assert harness.planner.idle
    assert (harness.planner.cache.cached, harness.planner.cache.free) == (30, 970)


def test_cancel_frees_everything_wherever_the_job_is() -> None:
    harness = make(max_running=1)
    running, waiting, unknown = (make_job(job, distinct(job, 40), 4) for job in range(3))
    harness.planner.submit(running)
    harness.planner.submit(waiting)
    harness.step()
    for job in (running, waiting, unknown):
        harness.planner.cancel(job)
    assert harness.planner.idle
    harness.planner.check()
    assert harness.planner.cache.running == 0


def test_what_can_never_run_is_refused() -> None:
    planner = make(total=50, context_length=100).planner
    with pytest.raises(
        RequestError, match=r"prompt of 100 tokens.* at least 1 to follow, exceeds .* 100 tokens"
    ):
        planner.submit(make_job(1, range(100), 5))
    with pytest.raises(RequestError, match=r"may need 51 KV slots .prompt 40., but the pool has only 50"):
        planner.submit(make_job(1, range(40), 12))
    planner.submit(make_job(1, range(40), 11))


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="token_budget must be at least 1, not 0"):
        Limits(context_length=10, token_budget=0)
    with pytest.raises(ValueError, match="aging_seconds must be positive"):
        Limits(context_length=10, aging_seconds=0)


def test_a_draft_is_computed_with_the_token_before_it() -> None:
    harness = make(token_budget=16)
    harness.draft = lambda job: [sampled(job), sampled(job) + 1, 99]  # the third is never sampled
    harness.planner.submit(make_job(1, distinct(1, 4), 9))
    assert [counts(plan)[1] for plan in harness.run()] == [4, 4, 4, 2]
    assert harness.done[0].trunk.tokens[4:].tolist() == [*range(1, 10)]


def test_drafts_give_way_to_a_short_pool_and_a_short_budget() -> None:
    harness = make(total=30, token_budget=16)
    harness.draft = lambda job: [0] * 9
    for job in range(2):
        harness.planner.submit(make_job(job, distinct(job, 5), 10))
    assert [counts(harness.step()) for _ in range(3)] == [{0: 5, 1: 5}, {0: 1, 1: 1}, {0: 8, 1: 8}]
    harness.run()
    assert [job.generated for job in harness.done] == [10, 10]


def test_drafts_that_have_slots_left_over_count_for_the_budget() -> None:
    harness = make(token_budget=16)
    harness.draft = lambda job: [99] * 7  # nothing of it is ever sampled: its slots are left
    for job in range(2):
        harness.planner.submit(make_job(job, distinct(job, 4), 30))
    assert [counts(harness.step()) for _ in range(2)] == [{0: 4, 1: 4}, {0: 8, 1: 8}]
    harness.planner.submit(make_job(2, distinct(2, 4), 30))
    harness.step()
    assert counts(harness.step()) == {0: 1, 1: 1, 2: 1}


def test_what_a_wrong_draft_leaves_serves_steps_that_are_begun_ahead() -> None:
    harness = make()
    harness.draft = lambda job: [99] * 3
    job = make_job(1, distinct(1, 4), 9)
    harness.planner.submit(job)
    harness.step()
    harness.step()
    job.trunk.drafted = 0
    before = job.trunk.allocated
    assert harness.planner.look_ahead([job])
    assert job.trunk.allocated == before == job.trunk.computed + 3
    harness.planner.check()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_load_ends_in_any_pool_that_holds_each_request(data: st.DataObject) -> None:
    total = data.draw(st.integers(20, 80), label="slots")
    budget = data.draw(st.integers(1, 30), label="budget")
    harness = make(total=total, token_budget=budget, max_running=data.draw(st.integers(1, 9)))
    right = data.draw(st.lists(st.booleans(), max_size=5), label="which drafted tokens are right")
    harness.draft = lambda job: [(sampled(job) + at) % 50 if is_ else 99 for at, is_ in enumerate(right)]
    jobs = []
    for id_ in range(data.draw(st.integers(1, 12), label="jobs")):
        length = data.draw(st.integers(1, total - 10))
        stem = data.draw(st.sampled_from([0, 100, 200]))
        kind = data.draw(st.sampled_from(["prefill", "generate", "score"]))
        room = total - length
        job = make_job(
            id_,
            range(stem, stem + length),
            data.draw(st.integers(1, room)) if kind == "generate" else 0,
            priority=data.draw(st.integers(0, 2)),
            ahead=kind == "prefill" and data.draw(st.booleans()),
            arrival=float(id_),
            tails=tuple([7] * data.draw(st.integers(1, room // 2)) for _ in range(2))
            if kind == "score"
            else (),
        )
        jobs.append(job)
        harness.planner.submit(job)
        if data.draw(st.booleans()):
            harness.step()
        if data.draw(st.integers(0, 5)) == 0:
            harness.planner.cancel(jobs.pop(data.draw(st.integers(0, len(jobs) - 1))))
    harness.run()
    assert {job.id for job in harness.done} >= {job.id for job in jobs}
    assert len(set(harness.done)) == len(harness.done)
    assert all(job.generated == job.max_new for job in harness.done)
    outputs = [(job, job.trunk.tokens[job.prompt : job.trunk.length].tolist()) for job in harness.done]
    assert all(output == [(job.id + at) % 50 for at in range(job.max_new)] for job, output in outputs)
    assert harness.planner.cache.running == 0
