"""How many threads a step gets."""

from __future__ import annotations

import pytest

from weft.runtime.llm.cpu import trial
from weft.runtime.llm.cpu.linear import ROWS
from weft.runtime.llm.cpu.trial import choose_threads


def test_many_threads_serve_where_they_are_clearly_faster() -> None:
    seconds = {(1, 0): 1.0, (1, 1): 0.95, (4, 0): 1.0, (4, 1): 0.8, (16, 0): 1.0, (16, 1): 2.0}
    chosen = choose_threads(lambda rows, at: seconds.get((rows, at), 1.0 - at / 2), most=1, gain=1.1)
    assert chosen == [0, 1, 0, 1]


def test_many_threads_may_be_wanted_though_they_are_somewhat_slower() -> None:
    seconds = {1: 1.3, 4: 1.2, 16: 1.1, 64: 0.6}
    chosen = choose_threads(lambda rows, at: seconds[rows] if at else 1.0, most=1, gain=0.8)
    assert chosen == [0, 1, 1, 1]


def test_with_one_thread_nothing_is_tried() -> None:
    def trial(rows: int, at: int) -> float:
        raise AssertionError("there is no choice")

    assert choose_threads(trial, most=0, gain=1.1) == [0] * len(ROWS)


def test_slow_models_are_not_tried_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def slow(rows: int, at: int) -> float:
        tried.append(rows)
        return 1.0

    monkeypatch.setattr(trial, "_SECONDS", -1.0)
    assert choose_threads(slow, most=1, gain=1.1) == [1] * len(ROWS)
    assert not tried
