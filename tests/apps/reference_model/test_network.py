from __future__ import annotations

from random import Random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.apps.reference_model.training.network import dense_mask
from weft.apps.reference_model.training.rows import APART, BRANCHES


def groups_of(rng: Random, size: int) -> torch.Tensor:
    """(1, size): samples of a shared part, at times passages read apart, branches; then padding."""
    groups: list[int] = []
    sample = 0
    while len(groups) < size:
        sample += 1
        first = BRANCHES * sample
        groups += [first] * rng.randint(1, 9)
        for apart in range(rng.choice((0, 0, 3))):
            groups += [first + APART + apart] * rng.randint(1, 5)
        for branch in range(rng.randint(1, 4)):
            groups += [first + 1 + branch] * rng.randint(1, 5)
        if rng.random() < 0.2:
            groups += [0] * size
    return torch.tensor([groups[:size]], dtype=torch.int32)


def by_groups(groups: torch.Tensor) -> torch.Tensor:
    """The same mask, by what groups mean (see `rows`)."""
    mine, theirs = groups[0][:, None], groups[0][None, :]
    same_sample = mine // BRANCHES == theirs // BRANCHES
    mine, theirs = mine % BRANCHES, theirs % BRANCHES
    reads_apart = (mine > 0) & (mine < APART) & (theirs >= APART)
    seen = same_sample & ((theirs == 0) | (mine == theirs) | reads_apart)
    return torch.tril(seen)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 90))
def test_a_token_sees_its_own_branch_and_what_branches_share(seed: int, size: int) -> None:
    groups = groups_of(Random(seed), size)
    assert torch.equal(dense_mask(groups)[0, 0], by_groups(groups))
