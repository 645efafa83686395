from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.retrieval.documents import Passage
from weft.runtime.retrieval.fusion import reciprocal_ranks
from weft.runtime.retrieval.rerank import fuse, merge_queries, top_k


def passages(ids: str) -> list[Passage]:
    return [Passage(id, f"text {id}", 0.0) for id in ids]


def ids(found: list[Passage]) -> str:
    return "".join(passage.id for passage in found)


def test_the_best_come_first_with_their_new_scores() -> None:
    found = top_k(passages("abc"), [0.1, 0.9, 0.5], 2)
    assert [(passage.id, passage.score) for passage in found] == [("b", 0.9), ("c", 0.5)]


def test_ties_keep_their_order_and_duplicates_the_first() -> None:
    assert ids(top_k(passages("cabca"), [1, 1, 1, 9, 9], 10)) == "cab"


def test_nothing_to_rank_is_no_error() -> None:
    assert top_k([], [], 3) == []
    assert fuse([]) == fuse([[], []]) == []
    assert merge_queries([]) == []


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        top_k(passages("a"), [1], 0)
    with pytest.raises(ValueError, match=r"2 passages need as many scores, not \[1\]"):
        top_k(passages("ab"), [1], 1)
    with pytest.raises(ValueError, match="score of passage 'b' is not finite"):
        top_k(passages("ab"), [1, float("nan")], 1)
    with pytest.raises(ValueError, match="k must be at least 0"):
        fuse([passages("a")], k=-1)


def test_fusion_is_the_sum_of_reciprocal_ranks_with_ties_by_id() -> None:
    fused = fuse([passages("bac"), passages("abd")])
    assert [(passage.id, passage.score) for passage in fused] == [
        ("a", 1 / 61 + 1 / 62),
        ("b", 1 / 61 + 1 / 62),
        ("c", 1 / 63),
        ("d", 1 / 63),
    ]


@given(st.lists(st.lists(st.integers(0, 9), unique=True), max_size=5))
def test_fusion_does_not_depend_on_the_order_of_rankings(rankings: list[list[int]]) -> None:
    assert reciprocal_ranks(rankings) == reciprocal_ranks(rankings[::-1])


def test_results_of_several_queries_are_joined_without_duplicates() -> None:
    assert ids(merge_queries([passages("ab"), [], passages("bca")])) == "abc"
