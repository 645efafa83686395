from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.graph.ir import Node, Value
from weft.graph.ops.common import Format, Gather
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.prompt import Fixed, Slot
from weft.graph.values import EFFECT, Json, KvValue, TextValue
from weft.runtime.llm.context import Context
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.worker.engines.base import HeldKv, Task
from weft.runtime.worker.runs import Runs

from .conftest import MODEL_FOLDER

ONE = Json(1)


def task(number: int, *needs: Value, run: str = "r", attempt: int = 1) -> Task:
    node = Node(number, Gather("list"), {str(index): value for index, value in enumerate(needs)})
    return Task(run, node, attempt)


def held(key: str) -> HeldKv:
    return HeldKv(key, context=Context.empty(Tokenizer.from_folder(MODEL_FOLDER)), model="m", namespace="")


def counts(runs: Runs) -> tuple[int, int, int]:
    return runs.waiting, runs.running, runs.contexts


def test_a_task_starts_once_its_last_operand_is_known() -> None:
    runs = Runs()
    both = task(3, Value(1), Value(2, 1))
    assert runs.add([both], {"%1": ONE}) == []
    assert runs.push("r", {"%2": ONE}) == []
    (ready,) = runs.push("r", {"%2.1": TextValue("x")})
    assert ready == (both, {"0": ONE, "1": TextValue("x")})
    assert counts(runs) == (0, 1, 0)
    assert runs.push("r", {"%2.1": TextValue("y")}) == []


def test_results_feed_the_tasks_that_wait_for_them() -> None:
    runs = Runs()
    first, second = task(1), task(2, Value(1, 1))
    (ready,) = runs.add([first, second], {})
    assert ready.task is first
    (ready,) = runs.finish(first, (EFFECT, ONE))
    assert ready == (second, {"0": ONE})


def test_values_of_one_run_are_not_those_of_another() -> None:
    runs = Runs()
    runs.add([task(2, Value(1))], {})
    runs.add([task(2, Value(1), run="s")], {})
    assert [ready.task.run for ready in runs.push("s", {"%1": ONE})] == ["s"]


def test_cancelling_a_run_leaves_nothing_once_its_tasks_have_ended() -> None:
    runs = Runs()
    running, waiting = task(1), task(2, Value(1))
    runs.add([running, waiting], {"%9": ONE})
    assert runs.cancel("r") == [running]
    assert counts(runs) == (0, 1, 0)
    assert runs.finish(running, (ONE,)) == []
    assert len(runs) == 0
    assert runs.cancel("r") == []
    runs.leave(running)
    assert runs.push("r", {"%1": ONE}) == []
    assert "r" not in runs


def test_cancelling_nodes_leaves_the_others_and_the_values() -> None:
    runs = Runs()
    tasks = [task(1), task(2), task(3, Value(9)), task(4, Value(9))]
    runs.add(tasks, {})
    assert runs.cancel("r", [2, 3]) == [tasks[1]]
    assert [ready.task for ready in runs.push("r", {"%9": ONE})] == [tasks[3]]


def test_only_the_last_attempt_counts() -> None:
    runs = Runs()
    first, second, after = task(1), task(1, attempt=2), task(2, Value(1))
    runs.add([first, after], {})
    assert runs.cancel("r", [1]) == [first]
    runs.add([second], {})
    assert counts(runs) == (1, 2, 0)
    assert runs.finish(first, (Json("old"),)) == []
    (ready,) = runs.finish(second, (Json("new"),))
    assert ready.operands == {"0": Json("new")}


def test_another_attempt_takes_the_place_of_a_waiting_one() -> None:
    runs = Runs()
    runs.add([task(1, Value(9))], {})
    again = task(1, Value(9), attempt=2)
    runs.add([again], {})
    assert [ready.task for ready in runs.push("r", {"%9": ONE})] == [again]


def test_a_context_that_is_held_is_not_replaced_by_its_name() -> None:
    runs = Runs()
    made = held("r/%1")
    producer = task(1)
    runs.add([producer], {})
    runs.finish(producer, (made,))
    (ready,) = runs.add([task(2, Value(1))], {"%1": KvValue("r/%1")})
    assert ready.operands["0"] is made


def test_contexts_are_counted_until_they_are_released() -> None:
    runs = Runs()
    makers = [task(1), task(2)]
    runs.add(makers, {"%5": KvValue("r/%5")})
    for maker in makers:
        runs.finish(maker, (held(f"r/%{maker.node.id}"), TextValue("x")))
    assert runs.contexts == 2
    runs.release("r", ["%1", "%77"])
    assert runs.contexts == 1
    runs.release("r")
    runs.release("r")
    assert (counts(runs), len(runs)) == ((0, 0, 0), 0)


def test_tasks_that_wait_for_a_value_can_be_named() -> None:
    runs = Runs()
    tasks = [task(1, Value(8)), task(2, Value(9)), task(3, Value(8), Value(9))]
    runs.add(tasks, {})
    assert runs.waiting_for("r", ["%9"]) == tasks[1:]
    assert runs.waiting_for("s", ["%9"]) == []


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_every_task_runs_once_and_after_its_operands(seed: int, size: int) -> None:
    """Random graphs, in random fragments, whose outer values come in random order."""
    choose = random.Random(seed)
    needs = {
        number: sorted(choose.sample(range(-3, number), choose.randint(0, min(3, number + 3))))
        for number in range(size)
    }
    values = {number: Value(number if number >= 0 else 1000 - number) for number in range(-3, size)}
    tasks = [task(number, *(values[need] for need in needs[number])) for number in range(size)]
    cut = choose.randint(0, size)
    arrivals: list[object] = [tasks[:cut], tasks[cut:], -1, -2, -3]
    choose.shuffle(arrivals)
    runs, started, known = Runs(), [], set[int]()
    active: list[Task] = []
    while arrivals or active:
        if arrivals and (not active or choose.random() < 0.5):
            arrival = arrivals.pop()
            if isinstance(arrival, list):
                ready = runs.add(arrival, {str(values[n]): ONE for n in known if n < 0})
            else:
                assert isinstance(arrival, int)
                known.add(arrival)
                ready = runs.push("r", {str(values[arrival]): ONE})
        else:
            ended = active.pop(choose.randrange(len(active)))
            known.add(ended.node.id)
            ready = runs.finish(ended, (ONE,))
        for entry in ready:
            assert set(needs[entry.task.node.id]) <= known
            started.append(entry.task.node.id)
            active.append(entry.task)
    assert sorted(started) == list(range(size))
    assert (runs.waiting, runs.running) == (0, 0)


def _llm(number: int, op: Prefill | Decode | Score | Format, **args: Value) -> Task:
    return Task("r", Node(number, op, args))


def _fused(*tasks: Task, known: tuple[str, ...] = ()) -> list[bool]:
    """Which of the prefills that start one after the other need no request of their own."""
    runs = Runs()
    ready = runs.add(tasks, dict.fromkeys(known, ONE))
    found: list[bool] = []
    while ready:
        task = ready.pop(0).task
        if isinstance(task.node.op, Prefill):
            found.append(task.fused)
        ready += runs.finish(task, (ONE, ONE))
    return found


READ, WRITE, WEIGH = Prefill("m", (Fixed("a"),)), Decode("m"), Score("m", ("a", "b"))


def test_a_prefill_is_fused_with_what_continues_it_at_once() -> None:
    head = _llm(1, READ)
    assert _fused(head) == [False]
    assert _fused(head, _llm(2, WRITE, kv=Value(1))) == [True]
    assert _fused(head, _llm(2, WEIGH, kv=Value(1)), _llm(3, WRITE, kv=Value(1))) == [True]
    assert _fused(head, _llm(2, READ, kv=Value(1)), _llm(3, WRITE, kv=Value(2))) == [True, True]


def test_a_prefill_whose_continuation_waits_is_computed_meanwhile() -> None:
    head, tail = _llm(1, READ), _llm(2, Prefill("m", (Slot("x"),)), kv=Value(1), x=Value(9))
    answer = _llm(3, WRITE, kv=Value(2))
    assert _fused(head, tail, answer) == [False]
    assert _fused(head, tail, answer, known=("%9",)) == [True, True]
    other = _llm(4, Prefill("m", (Slot("x"),)), kv=Value(1), x=Value(8))
    assert _fused(head, tail, other, known=("%8",)) == [True, False]


def test_a_head_is_overtaken_once_what_continues_it_has_all_else() -> None:
    head = Task("r", Node(1, Prefill("m", (Fixed("x"),))))
    rest = Task("r", Node(2, Prefill("m", (Slot("q"),)), {"kv": Value(1), "q": Value(0)}))
    other = Task("r", Node(3, Prefill("m", (Slot("q"),)), {"kv": Value(1), "q": Value(9)}))
    runs = Runs()
    assert [ready.task for ready in runs.add([head, rest, other], {})] == [head]
    assert runs.overtaken("r") == []
    runs.push("r", {"%0": TextValue("who?")})
    assert runs.overtaken("r") == [head]
    assert runs.overtaken("another run") == []
    assert [ready.task.node.id for ready in runs.finish(head, (held("r/%1"),))] == [2]
    assert runs.overtaken("r") == []


def test_what_reads_together_with_its_head_does_not_overtake_it() -> None:
    head = Task("r", Node(1, Prefill("m", (Fixed("x"),))))
    write = Task("r", Node(2, Decode("m"), {"kv": Value(1)}))
    runs = Runs()
    (ready,) = runs.add([head, write], {})
    assert ready.task.fused
    assert runs.overtaken("r") == []
