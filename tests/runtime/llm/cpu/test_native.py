"""The model that is compiled from C, against the one that is made of torch's operations."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weft.kernels.attention import PagedBatch
from weft.kernels.cpu import library as builder
from weft.kernels.cpu.binding import declare
from weft.kernels.cpu.library import load
from weft.runtime.kv.pool import KVPool
from weft.runtime.llm.config import ModelConfig, RopeConfig
from weft.runtime.llm.cpu.native import NativeModel
from weft.runtime.llm.fused import FusedModel
from weft.runtime.llm.loader import LayerWeights, Weights
from weft.runtime.llm.model_base import Model

CONTEXT = 512
VOCAB = 150
Ints = NDArray[np.int64]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    found = load()
    if found is None:
        pytest.skip("there is no C compiler")
    return found


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def shape(
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    hidden: int = 48,
    inner: int = 100,
    biased: bool = False,
    qk_norm: bool = False,
    windows: tuple[int | None, ...] = (None, None),
) -> ModelConfig:
    return ModelConfig(
        family="llama",
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=inner,
        layers=len(windows),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=1e-5,
        context_length=CONTEXT,
        rope=RopeConfig(1000.0),
        windows=windows,
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=biased,
        qk_norm=qk_norm,
        tied=False,
        eos_ids=frozenset(),
        dtype="float32",
    )


def weights(config: ModelConfig, seed: int = 0) -> Weights[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator) / math.sqrt(size[-1])

    def near_one(*size: int) -> torch.Tensor:
        return 1 + torch.randn(*size, generator=generator) / 10

    hidden, inner, width = config.hidden_size, config.intermediate_size, config.heads * config.head_dim
    qkv = width + 2 * config.kv_heads * config.head_dim
    layers = [
        LayerWeights(
            input_norm=near_one(hidden),
            qkv=drawn(qkv, hidden),
            qkv_bias=drawn(qkv) if config.qkv_bias else None,
            qk_norm=near_one(config.heads + config.kv_heads, config.head_dim) if config.qk_norm else None,
            out=drawn(hidden, width),
            out_bias=drawn(hidden) if config.out_bias else None,
            post_norm=near_one(hidden),
            gate_up=drawn(2 * inner, hidden),
            gate_up_bias=drawn(2 * inner) if config.mlp_bias else None,
            down=drawn(hidden, inner),
            down_bias=drawn(hidden) if config.mlp_bias else None,
        )
        for _ in range(config.layers)
    ]
    return Weights(drawn(config.vocab_size, hidden), iter(layers), near_one(hidden), drawn(VOCAB, hidden))


def native(config: ModelConfig, library: ctypes.CDLL) -> NativeModel:
    return NativeModel(config, weights(config), library, name="m")


@dataclass(frozen=True)
class Text:
    """A sequence: its tokens, and their slots."""

    ids: Ints
    slots: Ints


def texts(lengths: list[int], *, seed: int = 0) -> list[Text]:
    """Sequences whose slots are scattered."""
    chance = np.random.default_rng(seed)
    slots = chance.permutation(sum(lengths) + 7)
    ends = np.cumsum(lengths)
    return [
        Text(chance.integers(0, VOCAB, length), slots[end - length : end])
        for length, end in zip(lengths, ends, strict=True)
    ]


def poisoned_pool(model: Model, sequences: list[Text]) -> KVPool:
    """Whoever reads a slot that nobody has written to computes NaN."""
    pool = model.allocate_pool(sum(len(text.slots) for text in sequences) + 7)
    pool.keys.fill_(torch.nan)
    pool.values.fill_(torch.nan)
    return pool


def step(model: Model, pool: KVPool, work: list[tuple[Text, int, int]]) -> torch.Tensor:
    """The logits after every token `start` to `end` of each text."""
    work = [(text, start, end) for text, start, end in work if start < end]
    if not work:
        return torch.empty(0, VOCAB)
    batch = PagedBatch(
        slots=np.concatenate([text.slots[:end] for text, _, end in work]),
        key_counts=tuple(end for _, _, end in work),
        positions=np.concatenate([np.arange(start, end) for _, start, end in work]),
        query_counts=tuple(end - start for _, start, end in work),
    )
    ids = torch.from_numpy(np.concatenate([text.ids[start:end] for text, start, end in work]))
    new = torch.from_numpy(np.concatenate([text.slots[start:end] for text, start, end in work]))
    return model.forward(ids, new, batch, pool, torch.arange(len(ids)))


def in_steps(model: Model, sequences: list[Text], cuts: list[list[int]]) -> list[torch.Tensor]:
    """The logits of each text, when all are read together, step by step: text i up to cuts[step][i]."""
    pool = poisoned_pool(model, sequences)
    found: list[list[torch.Tensor]] = [[] for _ in sequences]
    done = [0] * len(sequences)
    for ends in cuts:
        spans = [
            (text, start, max(start, end)) for text, start, end in zip(sequences, done, ends, strict=True)
        ]
        rows = torch.split(step(model, pool, spans), [end - start for _, start, end in spans])
        for parts, part in zip(found, rows, strict=True):
            parts.append(part)
        done = [end for _, _, end in spans]
    return [torch.cat(parts) for parts in found]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 0.3
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_model_and_batch(data: st.DataObject, library: ctypes.CDLL) -> None:
    kv_heads = data.draw(st.sampled_from([1, 2, 3]), "kv_heads")
    config = shape(
        heads=kv_heads * data.draw(st.sampled_from([1, 2, 4, 7]), "group"),
        kv_heads=kv_heads,
        head_dim=data.draw(st.sampled_from([24, 32, 64, 96, 128]), "head_dim"),
        hidden=data.draw(st.integers(8, 140), "hidden"),
        inner=data.draw(st.integers(8, 140), "inner"),
        biased=data.draw(st.booleans(), "biased"),
        qk_norm=data.draw(st.booleans(), "qk_norm"),
        windows=(None, data.draw(st.none() | st.integers(1, 90), "window")),
    )
    lengths = data.draw(st.lists(st.integers(1, 150), min_size=1, max_size=5), "lengths")
    steps = data.draw(st.integers(0, 3), "steps")
    cuts = [[data.draw(st.integers(1, length), "cut") for length in lengths] for _ in range(steps)]
    sequences = texts(lengths, seed=data.draw(st.integers(0, 99), "seed"))
    ours = in_steps(native(config, library), sequences, [*cuts, lengths])
    theirs = in_steps(FusedModel(config, weights(config), name="m"), sequences, [lengths])
    assert_close(ours, theirs)


@pytest.mark.parametrize("hidden", [1100, 520])
def test_sums_that_are_taken_in_parts(hidden: int, library: ctypes.CDLL) -> None:
    config = shape(hidden=hidden, inner=1300, biased=True)
    sequences = texts([130, 3, 1])
    ours = in_steps(native(config, library), sequences, [[130, 3, 1]])
    assert_close(ours, in_steps(FusedModel(config, weights(config), name="m"), sequences, [[130, 3, 1]]))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the compiler makes no code for x86-64 here")
@pytest.mark.parametrize(("cpu", "panel"), [("x86-64", 16), ("x86-64-v3", 32)])
@pytest.mark.usefixtures("library")
def test_cpus_with_narrower_vectors(
    cpu: str, panel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are not met here are only compiled for; every x86-64 CPU runs the first."""
    monkeypatch.setattr(builder, "_tuned_for_this_cpu", lambda: f"-march={cpu}")
    narrow = declare(ctypes.CDLL(str(builder.build(tmp_path))))
    assert narrow.weft_panel() == panel
    if cpu != "x86-64" and " avx2 " not in Path("/proc/cpuinfo").read_text():
        return
    config = shape(biased=True, qk_norm=True, head_dim=24, windows=(None, 50))
    sequences = texts([150, 3, 1, 70])
    ours = in_steps(native(config, narrow), sequences, [[70, 1, 1, 69], [150, 3, 1, 70]])
    theirs = in_steps(FusedModel(config, weights(config), name="m"), sequences, [[150, 3, 1, 70]])
    assert_close(ours, theirs)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.usefixtures("two_threads")
def test_a_text_has_the_same_logits_in_any_company(window: int | None, library: ctypes.CDLL) -> None:
    """To the last bit: alone or not, in one step or in many, with any number of threads."""
    model = native(shape(windows=(window, None), qk_norm=True, heads=6), library)
    lengths = [200, 1, 65, 64, 300, 17]
    sequences = texts(lengths)
    together = in_steps(model, sequences, [lengths])
    cut = in_steps(model, sequences, [[150, 1, 63, 1, 290, 2], [151, 1, 64, 63, 291, 3], lengths])
    for text, length, first, second in zip(sequences, lengths, together, cut, strict=True):
        moved = Text(text.ids, np.arange(length)[::-1].copy())
        (alone,) = in_steps(model, [moved], [[end] for end in range(1, length + 1)])
        assert torch.equal(first, second)
        assert torch.equal(first, alone)


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_changes_nothing(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    model = native(shape(), library)
    sequences = texts([90, 30, 1])
    found = []
    for at in (0, 1):
        monkeypatch.setattr(model, "_threads_for", [at] * 4)
        found.append(torch.cat(in_steps(model, sequences, [[90, 30, 1]])))
    assert torch.equal(*found)


def test_what_a_query_must_not_see_is_not_seen(library: ctypes.CDLL) -> None:
    """Later tokens, and those before the window, change no bit."""
    window = 20
    model = native(shape(windows=(window,)), library)
    (text,) = texts([100])
    (expected,) = in_steps(model, [text], [[100]])
    for changed, unseen in ((slice(70, 100), slice(0, 70)), (slice(0, 50), slice(50 + window, 100))):
        ids = text.ids.copy()
        ids[changed] = (ids[changed] + 1) % VOCAB
        (found,) = in_steps(model, [Text(ids, text.slots)], [[100]])
        assert torch.equal(found[unseen], expected[unseen])
        assert not torch.equal(found[changed], expected[changed])


def test_only_the_wanted_rows_come_back(library: ctypes.CDLL) -> None:
    model = native(shape(), library)
    (text,) = texts([30])
    pool = poisoned_pool(model, [text])
    every = step(model, pool, [(text, 0, 30)])
    batch = PagedBatch(text.slots, (30,), np.arange(30), (30,))
    arguments = (torch.from_numpy(text.ids), torch.from_numpy(text.slots), batch, pool)
    wanted = torch.tensor([29, 0, 29, 7])
    assert torch.equal(model.forward(*arguments, wanted), every[wanted])
    assert model.forward(*arguments, torch.empty(0, dtype=torch.int64)).shape == (0, VOCAB)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": torch.tensor([1, VOCAB])}, f"ids must be from 0 to {VOCAB - 1}"),
        ({"ids": torch.tensor([1, -1])}, "ids must be"),
        ({"new_slots": torch.tensor([1, 12])}, "new_slots must be from 0 to 11"),
        ({"rows": torch.tensor([2])}, "logit_rows must be from 0 to 1"),
        ({"slots": np.array([1, 2, -3])}, "slots must be"),
        ({"slots": np.array([1, 2, 3, 4])}, "contradict"),
        ({"positions": np.array([1, 3])}, "behind the keys"),
        ({"positions": np.array([1])}, "contradict"),
        ({"key_counts": (4,)}, "key_counts must be"),
        ({"query_counts": (1,)}, "contradict"),
        ({"pool": (3, torch.float32)}, "slots must be"),
        ({"pool": (12, torch.bfloat16)}, "is none of this model's"),
    ],
)
def test_what_lies_outside_is_refused(changes: dict[str, Any], message: str, library: ctypes.CDLL) -> None:
    told: dict[str, Any] = {
        "ids": torch.tensor([1, 2]),
        "new_slots": torch.tensor([1, 2]),
        "rows": torch.tensor([1]),
        "slots": np.array([5, 1, 2]),
        "key_counts": (3,),
        "positions": np.array([1, 2]),
        "query_counts": (2,),
        "pool": (12, torch.float32),
    } | changes
    slots, dtype = told["pool"]
    pool = KVPool.allocate(
        layers=2, slots=slots, kv_heads=2, head_dim=32, dtype=dtype, device=torch.device("cpu")
    )
    batch = PagedBatch(told["slots"], told["key_counts"], told["positions"], told["query_counts"])
    with pytest.raises((IndexError, ValueError), match=message):
        native(shape(), library).forward(told["ids"], told["new_slots"], batch, pool, told["rows"])
