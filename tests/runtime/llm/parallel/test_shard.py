"""Parts make up the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.llm.config import Experts, ModelConfig, RopeConfig
from weft.runtime.llm.errors import ModelError
from weft.runtime.llm.parallel.shard import WHOLE, Shard

CONFIG = ModelConfig(
    family="llama",
    vocab_size=161,
    hidden_size=64,
    intermediate_size=96,
    layers=2,
    heads=8,
    kv_heads=4,
    head_dim=8,
    norm_eps=1e-6,
    context_length=128,
    rope=RopeConfig(10000.0),
    windows=(None, None),
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    qk_norm=False,
    tied=False,
    eos_ids=frozenset(),
    dtype="float32",
)


@given(st.integers(1, 9), st.integers(0, 200))
def test_the_parts_of_all_ranks_are_everything_in_order(size: int, count: int) -> None:
    shards = [Shard(rank, size) for rank in range(size)]
    parts = [range(count)[shard.part(count)] for shard in shards]
    assert [thing for part in parts for thing in part] == list(range(count))
    assert {shard.most(count) for shard in shards} == {len(parts[0])}
    assert all(len(part) <= len(parts[0]) for part in parts)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_part_has_its_share_of_heads_and_of_the_inner_width(size: int) -> None:
    own = Shard(size - 1, size).config(CONFIG)
    assert (own.heads * size, own.kv_heads * size, own.intermediate_size * size) == (8, 4, 96)
    assert replace(own, heads=8, kv_heads=4, intermediate_size=96) == CONFIG
    assert own.group == CONFIG.group


@pytest.mark.parametrize(
    ("size", "uneven"),
    [
        (3, "num_attention_heads 8, num_key_value_heads 4;"),
        (8, "num_key_value_heads 4;"),
        (5, "num_attention_heads 8, num_key_value_heads 4, intermediate_size 96;"),
    ],
)
def test_what_does_not_come_out_even_is_refused(size: int, uneven: str) -> None:
    with pytest.raises(ModelError, match=f"tensor_parallel = {size} does not divide this model's {uneven}"):
        Shard(0, size).config(CONFIG)


def test_a_part_has_its_share_of_each_expert() -> None:
    experts = Experts(frozenset((1,)), count=5, chosen=2, intermediate_size=24, normalized=True, shared=2)
    whole = replace(CONFIG, experts=experts)
    assert Shard(1, 4).config(whole).experts == replace(experts, intermediate_size=6)
    odd = replace(whole, experts=replace(experts, intermediate_size=26))
    with pytest.raises(ModelError, match="does not divide this model's inner width of experts 26;"):
        Shard(1, 4).config(odd)


def test_only_widths_that_some_layer_has_must_come_out_even() -> None:
    every = frozenset(range(CONFIG.layers))
    experts = Experts(every, count=4, chosen=2, intermediate_size=24, normalized=True)
    whole = replace(CONFIG, experts=experts, intermediate_size=97)
    Shard(0, 2).config(whole)
    with pytest.raises(ModelError, match="intermediate_size 97;"):
        Shard(0, 2).config(replace(whole, experts=replace(experts, layers=every - {0})))


def test_the_whole_is_a_part() -> None:
    assert WHOLE.config(CONFIG) == CONFIG
    assert range(7)[WHOLE.part(7)] == range(7)
