"""How near the kernels come to what the GPU can do, and what keeping keys unrotated costs.

Two ceilings are measured first: the bandwidth of a large copy (bytes read and written) and the rate of a
large bf16 matrix product, both on random data. The fraction of a kernel is the least traffic, or arithmetic,
of its work, over its time, over that ceiling. Each kernel is captured in a CUDA graph, as engines run it,
and the median of many replays counts; work that would fit into the cache rotates among sets of inputs.
Pages lie scattered over the pool. Baselines are torch's own: attention over dense, unpaged keys and values,
and the plain formulas. Run on a machine with an NVIDIA GPU:
``python -P benchmarks/kernels.py --json FILE``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from weft.kernels.activation import silu_mul
from weft.kernels.decode import DecodePlan, decode_attention, plan_decode
from weft.kernels.dispatch import Kernel
from weft.kernels.extend import ExtendBatch, extend_attention
from weft.kernels.heads import store_heads
from weft.kernels.mask import apply_token_mask
from weft.kernels.norm import add_rms_norm
from weft.kernels.sampling import Draw, Draws, draw
from weft.kernels.shared_prefix import find_shared_prefixes, plan_shared
from weft.kernels.tables import KVTable, Rotary

DEVICE = "cuda"
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128  # of Llama-3.1-8B
KEY_BYTES = 2 * KV_HEADS * HEAD_DIM * 2  # key and value in bf16
CACHE = 256 * 2**20  # bytes: sets of inputs together are larger than any GPU's cache
VOCAB = 128_256
LAYOUTS = ("rotated", "unrotated", "spliced")


SAMPLINGS = {
    "greedy": Draw(),
    "sampling, temperature": Draw(1.0),
    "sampling, top-k 50": Draw(1.0, top_k=50),
    "sampling, top-p 0.9": Draw(1.0, top_p=0.9),
    "sampling, top-k 50, top-p 0.9": Draw(1.0, top_k=50, top_p=0.9),
}


class Row(NamedTuple):
    """One measurement."""

    kernel: str
    case: str
    microseconds: float
    bytes: float = 0.0
    flops: float = 0.0
    baseline: float = 0.0  # microseconds
    against: str = ""


class Ceilings(NamedTuple):
    """What the device does at best."""

    bytes_per_second: float
    flops_per_second: float


def microseconds(
    work: Sequence[Callable[[], object]], *, captured: bool = True, seconds: float = 0.15
) -> float:
    """The median time of one call of `work`, whose calls are captured in one graph and replayed."""

    def all_calls() -> None:
        for call in work:
            call()

    all_calls()  # compiles
    torch.cuda.synchronize()
    once = all_calls
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            all_calls()
        once = graph.replay
    once()
    times: list[float] = []
    while len(times) < 10 or (sum(times) < 1e6 * seconds and len(times) < 500):
        begin, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
        begin.record()
        once()
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end))
    return statistics.median(times) / len(work)


def measure_ceilings() -> Ceilings:
    """Copy bandwidth over 4 GiB and the rate of an 8192-wide bf16 product."""
    source = torch.randn(2**29, device=DEVICE)
    target = torch.empty_like(source)
    copies = (lambda: target.copy_(source), lambda: torch.neg(source, out=target))  # whichever is faster
    copy = min(microseconds([copy]) for copy in copies)
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    product = microseconds([lambda: torch.mm(a, b)])
    return Ceilings(2 * 4 * 2**29 / copy * 1e6, 2 * 8192**3 / product * 1e6)


class Batch:
    """Sequences in a pool, their pages scattered; the first `shared` keys of all are the same."""

    def __init__(
        self, lengths: Sequence[int], page_size: int, *, layout: str = "rotated", shared: int = 0
    ) -> None:
        width = -(-max(lengths) // page_size)
        common = shared // page_size
        count = common + len(lengths) * (width - common)
        order = torch.randperm(count, device=DEVICE, dtype=torch.int32)
        own = order[common:].view(len(lengths), width - common)
        pages = torch.cat([order[:common].expand(len(lengths), -1), own], 1).contiguous()
        self.k, self.v = (random(count * page_size, KV_HEADS, HEAD_DIM) for _ in range(2))
        positions = None
        if layout == "spliced":
            causal = torch.arange(width * page_size, device=DEVICE, dtype=torch.int32)
            positions = causal.repeat(len(lengths), 1)
        self.table = KVTable(pages, page_size, positions)
        self.rotary = None if layout == "rotated" else rotary_tables(width * page_size)
        self.rows = torch.arange(len(lengths), device=DEVICE, dtype=torch.int32)
        self.lengths = torch.tensor(lengths, device=DEVICE, dtype=torch.int32)
        self.q = random(len(lengths), HEADS, HEAD_DIM)

    def decode(self, plan: DecodePlan) -> torch.Tensor:
        """One layer's decode attention."""
        return decode_attention(
            self.q, self.k, self.v, self.table, plan, scale=HEAD_DIM**-0.5, rotary=self.rotary
        )

    def plan(self) -> DecodePlan:
        """The plan without shared prefixes."""
        return plan_decode(self.lengths, self.rows, kv_heads=KV_HEADS)

    def extend(self, q: torch.Tensor, batch: ExtendBatch) -> torch.Tensor:
        """One layer's extend attention."""
        return extend_attention(
            q, self.k, self.v, self.table, batch, scale=HEAD_DIM**-0.5, rotary=self.rotary
        )


def random(*shape: int) -> torch.Tensor:
    """Normal numbers in bf16."""
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def rotary_tables(positions: int) -> Rotary:
    """Tables of Llama's base frequencies."""
    frequencies = 500_000.0 ** -(torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    return Rotary(angles.cos().float().to(DEVICE), angles.sin().float().to(DEVICE))


def decode_rows() -> Iterator[Row]:
    """Decode attention; the baseline reads dense keys, padded to nothing."""
    for batch, keys, pages in ((64, 4096, (1, 16, 64)), (256, 1024, (1,)), (8, 4096, (1,)), (1, 4096, (1,))):
        sets = max(1, math.ceil(CACHE / (batch * keys * KEY_BYTES)))
        k, v = (random(batch, KV_HEADS, keys, HEAD_DIM) for _ in range(2))
        q = random(batch, HEADS, 1, HEAD_DIM)
        dense = microseconds([partial(scaled_dot_product_attention, q, k, v, enable_gqa=True)])
        for page_size in pages:
            for layout in LAYOUTS:
                worlds = [Batch([keys] * batch, page_size, layout=layout) for _ in range(sets)]
                calls = [partial(world.decode, world.plan()) for world in worlds]
                yield Row(
                    "decode attention",
                    f"batch {batch}, {keys} keys, page {page_size}, {layout}",
                    microseconds(calls),
                    bytes=batch * (keys * KEY_BYTES + 2 * HEADS * HEAD_DIM * 2),
                    baseline=dense,
                    against="torch, dense",
                )
    ragged = Batch([64 + 8000 * i // 63 for i in range(64)], 1)
    total = int(ragged.lengths.sum())
    yield Row(
        "decode attention",
        "batch 64, 64 to 8064 keys, page 1, rotated",
        microseconds([partial(ragged.decode, ragged.plan())]),
        bytes=total * KEY_BYTES,
    )
    yield Row("decode plan", "batch 64, once a step", microseconds([ragged.plan]))


def shared_rows() -> Iterator[Row]:
    """A batch that shares a long prefix, against the plain kernel over the same tables."""
    for sequences, prefix, own in ((64, 6000, 480), (64, 1000, 480), (8, 6000, 480)):
        for layout in LAYOUTS:
            batch = Batch([prefix + own] * sequences, 1, layout=layout, shared=prefix)
            slots = [row.numpy() for row in batch.table.pages.cpu()]
            shared = plan_shared(
                find_shared_prefixes(slots),
                group=HEADS // KV_HEADS,
                kv_heads=KV_HEADS,
                device=torch.device(DEVICE),
            )
            plan = plan_decode(batch.lengths, batch.rows, kv_heads=KV_HEADS, shared=shared)
            plain = batch.plan()
            torch.testing.assert_close(batch.decode(plan), batch.decode(plain), atol=2e-2, rtol=2e-2)
            yield Row(
                "shared-prefix decode",
                f"{sequences} sequences, {prefix} shared + {own} own keys, page 1, {layout}",
                microseconds([partial(batch.decode, plan)]),
                bytes=(prefix + sequences * own) * KEY_BYTES,
                baseline=microseconds([partial(batch.decode, plain)]),
                against="plain decode kernel",
            )


def extend_rows() -> Iterator[Row]:
    """Prefill; the baseline is torch's attention over dense keys (causal, cached keys in front)."""
    for sequences, new, cached in ((1, 8192, 0), (4, 2048, 0), (1, 2048, 30720)):
        keys = new + cached
        flops = 4 * HEADS * HEAD_DIM * sequences * (new * cached + new * (new + 1) / 2)
        q = random(sequences, HEADS, new, HEAD_DIM)
        k, v = (random(sequences, KV_HEADS, keys, HEAD_DIM) for _ in range(2))
        dense = 0.0
        if not cached:
            attend = partial(scaled_dot_product_attention, is_causal=True, enable_gqa=True)
            dense = microseconds([partial(attend, q, k, v)])
        flat = random(sequences * new, HEADS, HEAD_DIM)
        positions = torch.arange(cached, keys, device=DEVICE, dtype=torch.int32).repeat(sequences)
        starts = torch.arange(0, sequences * new + 1, new, device=DEVICE, dtype=torch.int32)
        for page_size in (1, 16):
            for layout in LAYOUTS:
                batch = Batch([keys] * sequences, page_size, layout=layout)
                queries = ExtendBatch(batch.rows, starts, positions)
                yield Row(
                    "extend attention",
                    f"{sequences} x {new} tokens after {cached}, page {page_size}, {layout}",
                    microseconds([partial(batch.extend, flat, queries)]),
                    flops=flops,
                    baseline=dense,
                    against="torch, dense" if dense else "",
                )


def memory_rows() -> Iterator[Row]:
    """What moves bytes only; the baseline is torch's formulas."""
    dim, wide, width = HEADS * HEAD_DIM, 14336, HEADS + 2 * KV_HEADS
    weight, head_weights, rotary = random(dim), random(HEADS + KV_HEADS, HEAD_DIM), rotary_tables(8192)
    for tokens in (64, 8192):
        case = f"{tokens} tokens"
        size, shapes = 4 * tokens * dim * 2, [(tokens, dim), (tokens, dim)]
        yield memory_row("RMS norm with residual", case, size, add_rms_norm, shapes, weight, 1e-5)
        yield memory_row("SiLU product", case, 3 * tokens * wide * 2, silu_mul, [(tokens, 2 * wide)])
        pools = [random(65536, KV_HEADS, HEAD_DIM) for _ in range(2)]
        slots = torch.randperm(65536, device=DEVICE)[:tokens]
        turns = {"rotary": rotary, "positions": torch.randint(8192, (tokens,), device=DEVICE)}
        size, heads = 2 * tokens * width * HEAD_DIM * 2, [(tokens, width, HEAD_DIM)]
        for name, norms in (
            ("rotation and KV store", {}),
            ("qk-norm, rotation and KV store", {"qk_norm": head_weights, "eps": 1e-6}),
        ):
            yield memory_row(name, case, size, store_heads, heads, *pools, slots, **turns, **norms)

    for rows in (1, 64):
        for name, how in SAMPLINGS.items():
            draws = Draws.of([replace(how, seed=seed) for seed in range(rows)], torch.device(DEVICE))
            yield memory_row(name, f"{rows} x {VOCAB} logits", rows * VOCAB * 2, draw, [(rows, VOCAB)], draws)
        mask = torch.randint(-(2**31), 2**31, (rows, VOCAB // 32), device=DEVICE, dtype=torch.int32)
        case = f"{rows} x {VOCAB} logits, half forbidden"
        yield memory_row("token mask", case, rows * VOCAB * 2, apply_token_mask, [(rows, VOCAB)], mask)


def memory_row(
    name: str,
    case: str,
    size: int,
    kernel: Kernel[..., Any],
    shapes: Sequence[tuple[int, ...]],
    *rest: Any,
    **options: Any,
) -> Row:
    """Time `kernel` on random inputs of these shapes, then `rest`; it moves `size` bytes at least."""
    count = min(32, math.ceil(CACHE / size))
    sets = [[random(*shape) for shape in shapes] for _ in range(count)]
    return Row(
        name,
        case,
        microseconds([partial(kernel, *inputs, *rest, **options) for inputs in sets]),
        bytes=size,
        baseline=microseconds(
            [partial(kernel.reference, *inputs, *rest, **options) for inputs in sets],
            captured=kernel is not draw,  # whose reference looks which rows are greedy
        ),
        against="torch formulas",
    )


def table(rows: Sequence[Row], ceilings: Ceilings) -> str:
    """The measurements as a markdown table."""
    lines = [
        "| kernel | case | time | rate | of the ceiling | against | ratio |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        rate = fraction = ratio = ""
        seconds = row.microseconds / 1e6
        if row.bytes:
            rate = f"{row.bytes / seconds / 1e9:,.0f} GB/s"
            fraction = f"{row.bytes / seconds / ceilings.bytes_per_second:.0%}"
        elif row.flops:
            rate = f"{row.flops / seconds / 1e12:,.0f} TFLOP/s"
            fraction = f"{row.flops / seconds / ceilings.flops_per_second:.0%}"
        if row.baseline:
            ratio = f"{row.baseline / row.microseconds:.2f}"
        cells = (row.kernel, row.case, f"{row.microseconds:,.1f} us", rate, fraction, row.against, ratio)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--only", default="", metavar="NAME", help="only decode, shared, extend or memory")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    import triton

    ceilings = measure_ceilings()
    parts = {"decode": decode_rows, "shared": shared_rows, "extend": extend_rows, "memory": memory_rows}
    rows = [row for name, part in parts.items() if name.startswith(arguments.only) for row in part()]
    about = {
        "device": torch.cuda.get_device_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "copy_bytes_per_second": ceilings.bytes_per_second,
        "matmul_flops_per_second": ceilings.flops_per_second,
    }
    print(" · ".join(f"{key} {value}" for key, value in about.items()))
    print(table(rows, ceilings))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({**about, "rows": [row._asdict() for row in rows]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
