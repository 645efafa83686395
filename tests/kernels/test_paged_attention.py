"""Decode, shared-prefix and extend attention over tables of slots, against the definition in float64.

Each test runs on torch and on Triton: on a GPU at full sizes, else in Triton's interpreter at small ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

import numpy as np
import pytest
import torch

from weft.kernels.decode import decode_attention, plan_decode
from weft.kernels.dispatch import Side
from weft.kernels.extend import ExtendBatch, extend_attention, rotated
from weft.kernels.shared_prefix import SharedPlan, find_shared_prefixes, plan_shared
from weft.kernels.tables import KVTable, Rotary

pytestmark = pytest.mark.usefixtures("poisoned")

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
ROTATIONS = ["rotated", "causal", "spliced"]  # keys at rest; unrotated; unrotated with positions of their own


@dataclass(frozen=True)
class Shape:
    kv_heads: int = 2
    group: int = 2
    head_dim: int = 32
    page_size: int = 1
    window: int | None = None
    dtype: torch.dtype = torch.float32
    rotation: str = "rotated"
    softcap: float | None = None

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.head_dim)


@dataclass
class World:
    """Pools, and a table of sequences whose pages lie anywhere in them. What no sequence owns is NaN."""

    shape: Shape
    lengths: Sequence[int]
    shared: Sequence[tuple[tuple[int, ...], int]] = ()  # of these sequences, the first so many keys are one
    seed: int = 0
    k: torch.Tensor = field(init=False)
    v: torch.Tensor = field(init=False)
    table: KVTable = field(init=False)
    rotary: Rotary | None = field(init=False)

    def __post_init__(self) -> None:
        shape, rng = self.shape, np.random.default_rng(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)
        size = shape.page_size
        width = -(-max(self.lengths) // size) + 1
        free = rng.permutation(len(self.lengths) * width + 3).tolist()
        pages = np.full((len(self.lengths) + 1, width), -(2**30))
        for row, length in enumerate(self.lengths):
            pages[row + 1, : -(-length // size)] = [free.pop() for _ in range(-(-length // size))]
        for members, keys in self.shared:
            for member in members:
                pages[member + 1, : keys // size] = pages[members[0] + 1, : keys // size]
        turns = None
        if shape.rotation == "spliced":
            turns = rng.integers(0, 2 * max(self.lengths), (len(self.lengths) + 1, width * size))
            for members, keys in self.shared:
                for member in members:
                    turns[member + 1, :keys] = turns[members[0] + 1, :keys]
        self.table = KVTable(ints(pages), size, None if turns is None else ints(turns))
        slots = (len(self.lengths) * width + 3) * size
        self.k, self.v = (self.random(slots, shape.kv_heads) for _ in range(2))
        owned = torch.zeros(slots, dtype=torch.bool)
        for row, length in enumerate(self.lengths):
            owned[self.table.slots(row + 1, length).cpu()] = True
        self.k[~owned.to(DEVICE)] = torch.nan
        self.v[~owned.to(DEVICE)] = torch.nan
        self.rotary = None if shape.rotation == "rotated" else tables(shape.head_dim, 2 * slots)
        self.rows = ints(np.arange(1, len(self.lengths) + 1))  # row 0 is another's

    def random(self, rows: int, heads: int) -> torch.Tensor:
        values = torch.randn(rows, heads, self.shape.head_dim, generator=self.generator)
        return values.to(DEVICE, self.shape.dtype)

    def expected(self, q: torch.Tensor, queries: Sequence[Sequence[int]]) -> torch.Tensor:
        """By definition: for each query of each sequence, all visible keys."""
        out = []
        at = 0
        for row, positions in enumerate(queries):
            if not positions:
                continue
            keys = max(positions) + 1
            slots, turns = self.table.slots(row + 1, keys), self.table.rotary_positions(row + 1, keys)
            k, v = self.k[slots].double(), self.v[slots].double()
            own = q[at : at + len(positions)].double()
            p = torch.tensor(positions, device=DEVICE)
            if self.rotary is not None:
                wide = Rotary(self.rotary.cos.double(), self.rotary.sin.double())
                k, own = by_formula(k, wide, turns), by_formula(own, wide, turns[p])
            k, v = (x.repeat_interleave(self.shape.group, 1) for x in (k, v))
            scores = torch.einsum("qhd,khd->hqk", own, k) * self.shape.scale
            if self.shape.softcap is not None:
                scores = self.shape.softcap * (scores / self.shape.softcap).tanh()
            n = torch.arange(keys, device=DEVICE)
            hidden = n > p[:, None]
            if self.shape.window is not None:
                hidden |= n <= p[:, None] - self.shape.window
            out.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v))
            at += len(positions)
        return torch.cat(out)

    def decode(self, side: Side, q: torch.Tensor, shared: SharedPlan | None = None) -> torch.Tensor:
        shape = self.shape
        plan = plan_decode.on(side)(
            ints(self.lengths), self.rows, kv_heads=shape.kv_heads, window=shape.window, shared=shared
        )
        return decode_attention.on(side)(
            q,
            self.k,
            self.v,
            self.table,
            plan,
            scale=shape.scale,
            rotary=self.rotary,
            softcap=shape.softcap,
        )

    def extend(self, side: Side, q: torch.Tensor, queries: Sequence[Sequence[int]]) -> torch.Tensor:
        starts = np.cumsum([0, *map(len, queries)])
        batch = ExtendBatch(self.rows, ints(starts), ints([p for own in queries for p in own]))
        shape = self.shape
        return extend_attention.on(side)(
            q,
            self.k,
            self.v,
            self.table,
            batch,
            scale=shape.scale,
            window=shape.window,
            rotary=self.rotary,
            softcap=shape.softcap,
        )

    def check(self, out: torch.Tensor, expected: torch.Tensor) -> None:
        tolerance = TOLERANCE[self.shape.dtype]
        assert out.dtype == self.shape.dtype
        torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
        error = (out.double() - expected).norm() / expected.norm()
        assert error < tolerance, f"relative error {error:.1e}"

    def groups(self) -> SharedPlan:
        slots = [self.table.slots(row + 1, keys).cpu().numpy() for row, keys in enumerate(self.lengths)]
        return plan_shared(
            find_shared_prefixes(slots, min_keys=8),
            group=self.shape.group,
            kv_heads=self.shape.kv_heads,
            device=torch.device(DEVICE),
            min_split=64,
        )


def ints(values: Sequence[int] | np.ndarray) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.int32, device=DEVICE)


def tables(head_dim: int, positions: int) -> Rotary:
    frequencies = 10_000.0 ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    return Rotary(angles.cos().float().to(DEVICE), angles.sin().float().to(DEVICE))


def by_formula(x: torch.Tensor, rotary: Rotary, positions: torch.Tensor) -> torch.Tensor:
    pairs = torch.complex(*x.chunk(2, dim=-1))
    turned = pairs * torch.complex(rotary.cos[positions], rotary.sin[positions])[:, None]
    return torch.cat([turned.real, turned.imag], -1)


BASE = Shape()
LENGTHS = [4096, 1, 700, 64, 65, 2000, 129] if GPU else [150, 1, 64]
SHAPES = [
    replace(BASE, dtype=torch.bfloat16, page_size=16),
    replace(BASE, dtype=torch.float16, page_size=64, head_dim=64),
    replace(BASE, kv_heads=3, group=1, head_dim=96),
    replace(BASE, kv_heads=1, group=4, head_dim=128, dtype=torch.bfloat16),
    replace(BASE, kv_heads=1, group=7, head_dim=64, page_size=16),
    replace(BASE, kv_heads=1, group=1, head_dim=256),
    replace(BASE, window=1, page_size=16),
    replace(BASE, window=50, dtype=torch.bfloat16),
    replace(BASE, window=50, softcap=0.7),
    replace(BASE, softcap=1.5, head_dim=64, page_size=16, dtype=torch.bfloat16),
    replace(BASE, softcap=50.0),
]
if GPU:
    GRID = [
        Shape(kv_heads, group, head_dim, page_size, window, dtype)
        for kv_heads, group in ((8, 4), (4, 1), (1, 8))
        for head_dim in (32, 64, 96, 128, 256)
        for page_size in (1, 16, 64)
        for window in (None, 300)
        for dtype in TOLERANCE
    ]
    SHAPES += random.Random(0).sample(GRID, 72)


def shapes() -> list[Shape]:
    """One simple shape with all rotations, every other with one of them."""
    simple = [replace(BASE, rotation=rotation) for rotation in ROTATIONS]
    return simple + [
        replace(shape, rotation=rotation) for shape, rotation in zip(SHAPES, cycle(ROTATIONS), strict=False)
    ]


@pytest.mark.parametrize("shape", shapes(), ids=str)
def test_decode(shape: Shape, side: Side) -> None:
    world = World(shape, LENGTHS)
    q = world.random(len(LENGTHS), shape.kv_heads * shape.group)
    world.check(world.decode(side, q), world.expected(q, [[length - 1] for length in LENGTHS]))


def test_an_idle_row_of_a_decode_gives_zeros(side: Side) -> None:
    world = World(BASE, [20, 30])
    q = world.random(2, 4)
    world.lengths = [20, 0]
    out = world.decode(side, q)
    assert out[1].eq(0).all()
    world.check(out[:1], world.expected(q[:1], [[19]]))


QUERIES = [
    [*range(40, 110)],  # a chunk
    [0],
    [],
    [63, 5, 5, 20],  # any subset, in any order
    [*range(0, 65, 5)],
]
EXTENDED = [110, 1, 3, 64, 65]
if GPU:
    QUERIES = [*QUERIES, [*range(1000, 1777)], [*range(500)], [4095]]
    EXTENDED = [*EXTENDED, 1777, 500, 4096]


@pytest.mark.parametrize("shape", shapes(), ids=str)
def test_extend(shape: Shape, side: Side) -> None:
    world = World(shape, EXTENDED)
    q = world.random(sum(map(len, QUERIES)), shape.kv_heads * shape.group)
    world.check(world.extend(side, q, QUERIES), world.expected(q, QUERIES))


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("window", [None, 700])
def test_few_queries_over_many_keys(window: int | None, rotation: str, side: Side) -> None:
    keys = 8000 if GPU else 1200
    world = World(replace(BASE, kv_heads=1, window=window, rotation=rotation), [keys])
    queries = [[keys - 600, keys - 2, keys - 1]]
    q = world.random(3, 2)
    world.check(world.extend(side, q, queries), world.expected(q, queries))


TREE = [((0, 1, 2, 3, 4), 32), ((0, 1, 2), 100), ((0, 2), 150), ((3, 4), 50)]
LEAVES = [200, 101, 151, 60, 70, 90]


@pytest.mark.parametrize(
    "shape",
    [
        *shapes()[: None if GPU else 6],
        replace(BASE, window=40, rotation="causal"),
        replace(BASE, softcap=0.7),
        replace(BASE, kv_heads=1, group=7, head_dim=64, window=120),
    ],
    ids=str,
)
def test_decode_over_a_tree_of_shared_prefixes(shape: Shape, side: Side) -> None:
    if shape.page_size > 2:
        tree = [((0, 1, 2, 3, 4), 64), ((0, 1, 2), 128)]
        world = World(shape, [length + 70 for length in LEAVES], tree)
    else:
        world = World(shape, LEAVES, TREE)
    q = world.random(len(LEAVES), shape.kv_heads * shape.group)
    plan = world.groups()
    assert len(plan.items) >= 2
    world.check(world.decode(side, q, plan), world.expected(q, [[keys - 1] for keys in world.lengths]))


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("window", [None, 40])
def test_a_hidden_key_has_no_influence_at_all(window: int | None, rotation: str, side: Side) -> None:
    """Whatever becomes of keys and values that a query must not see, its output keeps every bit."""
    queries = [[0, 20, 70], [99]]
    world = World(replace(BASE, kv_heads=1, window=window, rotation=rotation), [100, 130])
    q = world.random(4, 2)
    before = world.extend(side, q, queries)
    for row, positions in enumerate(queries):
        for index, position in enumerate(positions):
            hidden = [n for n in range(world.lengths[row]) if n > position]
            if window is not None:
                hidden += list(range(position - window + 1))
            slots = world.table.slots(row + 1, world.lengths[row])[torch.tensor(hidden, device=DEVICE)]
            changed = replace_keys(world, slots)
            at = row * 3 + index
            assert torch.equal(changed.extend(side, q, queries)[at], before[at])
    q = world.random(2, 2)
    before = world.decode(side, q)
    others = world.table.slots(2, 130)
    assert torch.equal(replace_keys(world, others).decode(side, q)[0], before[0])
    if window is not None:
        old = world.table.slots(1, 100 - window)
        assert torch.equal(replace_keys(world, old).decode(side, q)[0], before[0])


def replace_keys(world: World, slots: torch.Tensor) -> World:
    changed = World(world.shape, world.lengths, world.shared, world.seed)
    changed.k, changed.v = world.k.clone(), world.v.clone()
    changed.k[slots] = changed.random(len(slots), world.shape.kv_heads) * 100
    changed.v[slots] = changed.random(len(slots), world.shape.kv_heads) * 100
    return changed


def test_rotation_at_far_positions_is_as_exact_as_near() -> None:
    """Tables built in float64: the error does not grow with the position."""
    positions = torch.tensor([3, 131_071])
    rotary = tables(64, 131_072)
    x = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    frequencies = 10_000.0 ** -(torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    angles = torch.outer(positions.double(), frequencies).to(DEVICE)
    expected = by_formula(x.double(), Rotary(angles.cos(), angles.sin()), torch.arange(2, device=DEVICE))
    out = rotated(x, rotary, positions.to(DEVICE))
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)
