from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.worker.engines.scoring import align, greedy_choice, judge


def test_options_begin_where_the_context_ends() -> None:
    aligned = align((1, 2, 3), [(1, 2, 3, 7), (1, 2, 3, 8, 9)])
    assert aligned == ((1, 2, 3), ((7,), (8, 9)))


def test_a_token_that_a_choice_changes_is_scored_with_every_choice() -> None:
    aligned = align((1, 2, 3), [(1, 2, 30, 7), (1, 2, 3, 8)])
    assert aligned == ((1, 2), ((30, 7), (3, 8)))


def test_no_option_is_ever_empty() -> None:
    assert align((1, 2, 3), [(1, 2), (1, 2, 3, 4)]) == ((1,), ((2,), (2, 3, 4)))


ids = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(ids, st.lists(ids, min_size=1, max_size=4))
def test_aligning_loses_no_token(context: list[int], wholes: list[list[int]]) -> None:
    aligned = align(context, wholes)
    assert [[*aligned.prefix, *option] for option in aligned.options] == wholes
    assert all(aligned.options)
    assert list(aligned.prefix) == context[: len(aligned.prefix)]


def test_mean_takes_the_highest_mean() -> None:
    assert judge("mean", [(1,), (2, 3)], [[-1.0], [-0.5, -1.1]]) == (1, [-1.0, pytest.approx(-0.8)])


def test_of_equal_scores_the_first_wins() -> None:
    assert judge("mean", [(1,), (2,)], [[-1.0], [-1.0]])[0] == 0


def test_unconditional_takes_away_what_is_likely_anyway() -> None:
    chosen, scores = judge("unconditional", [(1,), (2, 3)], [[-1.0], [-2.0, -2.0]], [[-0.5], [-4.0, -5.0]])
    assert chosen == 1
    assert scores == [-0.5, 2.5]


def test_greedy_goes_token_by_token() -> None:
    options = [(1, 2, 3), (1, 4, 5), (6, 7)]
    logprobs = [[-0.5, -0.2, -9.0], [-0.5, -0.9, -0.1], [-0.6, -0.1]]
    assert judge("greedy", options, logprobs)[0] == 0
    assert judge("mean", options, logprobs)[0] == 2


def test_greedy_holds_the_end_of_an_option_against_its_continuation_by_the_mean() -> None:
    a_and_a_plus = [(1,), (1, 2)]
    assert greedy_choice(a_and_a_plus, [[-1.0], [-1.0, -0.4]]) == 1
    assert greedy_choice(a_and_a_plus, [[-1.0], [-1.0, -1.5]]) == 0


def test_greedy_does_not_tell_equal_tokens_apart_by_rounding() -> None:
    assert greedy_choice([(1, 2), (1, 3)], [[-1.0 + 1e-6, -2.0], [-1.0, -0.1]]) == 1


def test_greedy_takes_the_first_of_equal_options() -> None:
    assert greedy_choice([(1, 2), (1, 2)], [[-1.0, -1.0], [-1.0, -1.0]]) == 0


_PRIMES = [n for n in range(2, 114) if all(n % divisor for divisor in range(2, n))]


@st.composite
def tries(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[list[float]]]:
    """Different options with a log-probability for each prefix; roots of primes: no two means are equal."""
    option = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple)
    options = draw(st.lists(option, min_size=1, max_size=6, unique=True))
    order = iter(draw(st.permutations(_PRIMES)))
    weights: dict[tuple[int, ...], float] = {}
    for tokens in options:
        for end in range(1, len(tokens) + 1):
            if tokens[:end] not in weights:
                weights[tokens[:end]] = -math.sqrt(next(order))
    return options, [[weights[tokens[:end]] for end in range(1, len(tokens) + 1)] for tokens in options]


@given(tries())
def test_greedy_is_the_selection_of_sglang(case: tuple[list[tuple[int, ...]], list[list[float]]]) -> None:
    """SGLang pads each option with its mean, and keeps the maxima of every column in turn."""
    options, logprobs = case
    width = max(map(len, options))
    padded = [[*row, *[sum(row) / len(row)] * (width - len(row))] for row in logprobs]
    remaining = list(range(len(options)))
    for column in range(width):
        top = max(padded[index][column] for index in remaining)
        remaining = [index for index in remaining if padded[index][column] == top]
    assert remaining == [greedy_choice(options, logprobs)]
