"""Drafts from the context: where they come from, and how many tokens of them are trusted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.llm.lookup import MOST_DRAFTED, Lookup, Trust, find


def found(*tokens: int) -> tuple[int, list[int]]:
    agreed, following = find(np.array(tokens, dtype=np.int64))
    return agreed, following.tolist()


def trusting() -> Trust:
    trust = Trust()
    for _ in range(200):
        for agreed in range(1, 10):
            trust.learn(agreed, right=True)
    return trust


def test_what_followed_where_most_tokens_agree_comes_before_what_followed_last() -> None:
    assert found(1, 2, 3, 4, 9, 2, 5, 6, 1, 2) == (2, [3, 4, 9, 2, 5, 6, 1, 2] * 2)
    assert found(1, 2, 3, 1, 2, 4, 1, 2) == (2, [4, 1, 2] * 5 + [4])


def test_a_text_that_repeats_itself_is_supposed_to_go_on() -> None:
    assert found(5, 6, 7, 7) == (1, [7] * 16)
    assert found(5, 6, 7, 6, 7) == (2, [6, 7] * 8)


def test_nothing_is_found_for_a_token_that_is_new() -> None:
    assert found(1, 2, 3) == (0, [])
    assert found(7) == (0, [])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_the_place_is_the_last_of_those_where_most_tokens_agree(tokens: list[int]) -> None:
    agreed, following = found(*tokens)
    best = (0, 0)
    for end in range(1, len(tokens)):
        same = 0
        while same < min(end, 8) and tokens[end - 1 - same] == tokens[len(tokens) - 1 - same]:
            same += 1
        if same:
            best = max(best, (same, end))
    assert agreed == best[0]
    behind = tokens[best[1] :]
    assert following == ((behind * MOST_DRAFTED)[:MOST_DRAFTED] if agreed else [])


def test_as_many_tokens_are_drafted_as_are_likely_to_be_right_together() -> None:
    trust = Trust()
    assert [len(trust.likely(1, least)) for least in (0.6, 0.5, 0.2, 0.1)] == [0, 1, 2, 3]
    assert len(trusting().likely(1, 0.9)) == MOST_DRAFTED


def test_a_text_that_goes_its_own_way_is_no_longer_drafted_and_one_that_copies_is_again() -> None:
    lookup = Lookup(Trust())
    context = np.array([1, 2, 3, 1], dtype=np.int64)
    assert lookup.draft(context, 8, 0.4) == [2]
    for _ in range(60):
        lookup.draft(context, 8, 0.4)
        lookup.take(9)
    assert lookup.draft(context, 8, 0.4) == []
    for _ in range(60):  # nothing is drafted, and yet what would have been is compared
        lookup.draft(context, 8, 0.4)
        lookup.take(2)
    assert lookup.draft(context, 1, 0.4) == [2]


def test_after_a_wrong_token_nothing_more_is_learnt_from_a_draft() -> None:
    trust = trusting()
    lookup = Lookup(trust)
    before = trust.likely(3, 0.9)
    lookup.draft(np.array([1, 2, 3, 4, 5, 1], dtype=np.int64), 8, 0.1)
    for token in (9, 8, 7):
        lookup.take(token)
    assert trust.likely(3, 0.9) == before
    assert trust.likely(1, 0.97) == []


@pytest.mark.parametrize("room", [1, 3])
def test_a_draft_is_no_longer_than_there_is_room(room: int) -> None:
    context = np.array([1, 2, 3, 4, 5, 1], dtype=np.int64)
    assert Lookup(trusting()).draft(context, room, 0.1) == [2, 3, 4, 5][:room]
