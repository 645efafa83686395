"""Compiles every Triton kernel for a Hopper GPU, without one; `test_compiling.py` runs it.

The interpreter, in which the other tests run, takes what the compiler refuses, such as a name that has two
types. Kernels are called as always, under a driver that launches nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from weft.kernels.activation import silu_mul
from weft.kernels.experts import SIZES, mix_experts, route
from weft.kernels.fp8 import FP8, Fp8Matrix
from weft.kernels.heads import store_heads
from weft.kernels.int4 import Int4Matrix, multiply
from weft.kernels.mask import apply_token_mask
from weft.kernels.norm import add_rms_norm, rms_norm
from weft.kernels.sampling import Draw, Draws, draw
from weft.kernels.tables import Rotary

from .test_paged_attention import BASE, LEAVES, LENGTHS, QUERIES, ROTATIONS, TREE, World

SHARED_MEMORY = 227 * 1024  # bytes that a program has on a Hopper GPU


class Driver:
    """As much of a driver as compiling needs."""

    def __init__(self) -> None:
        self.compiled = 0
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_MEMORY, "max_num_regs": 65536, "warpSize": 32}

    def load_binary(self, name: str, code: bytes, shared: int, device: int) -> tuple[int, ...]:
        assert shared <= SHARED_MEMORY, f"{name} needs {shared} bytes of shared memory"
        self.compiled += 1
        return 0, 0, 0, 0, 1024  # module, function, registers, spills, most threads

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments: None


def main() -> None:
    """Compile, and print how many kernels that were."""
    driver = Driver()
    triton.runtime.driver.set_active(driver)
    half = replace(BASE, kv_heads=2, group=4, head_dim=128, dtype=torch.bfloat16)
    for shape in [
        *(replace(half, rotation=rotation) for rotation in ROTATIONS),
        replace(half, window=50, page_size=16),
        replace(half, softcap=1.5),
        replace(half, head_dim=256),
    ]:
        world = World(shape, LENGTHS)
        world.decode("triton", world.random(len(LENGTHS), 8))
        world.extend("triton", world.random(sum(map(len, QUERIES)), 8), QUERIES)
        if shape.page_size == 1:
            tree = World(shape, LEAVES, TREE)
            tree.decode("triton", tree.random(len(LEAVES), 8), tree.groups())

    x = torch.zeros(3, 4096, dtype=torch.bfloat16)
    silu_mul.on("triton")(x)
    rms_norm.on("triton")(x, x[0], 1e-5)
    add_rms_norm.on("triton")(x, x, x[0], 1e-5)
    pool = torch.zeros(8, 2, 128, dtype=torch.bfloat16)
    turns = torch.zeros(16, 64)
    for qk_norm in (None, torch.zeros(6, 128, dtype=torch.bfloat16)):
        store_heads.on("triton")(
            torch.zeros(3, 8, 128, dtype=torch.bfloat16),
            pool,
            pool,
            torch.arange(3),
            qk_norm=qk_norm,
            rotary=Rotary(turns, turns),
            positions=torch.arange(3),
        )
    logits = torch.zeros(3, 128_256)
    apply_token_mask.on("triton")(logits, torch.zeros(3, 4008, dtype=torch.int32))
    weight = Int4Matrix.of(torch.zeros(256, 1024))
    for dtype in (torch.bfloat16, torch.float16):
        for rows in (1, 32, 64, 1024):
            x = torch.zeros(rows, 1024, dtype=dtype)
            multiply.on("triton")(x, weight.values, weight.factors, x[0, :256])
    draw.on("triton")(logits, Draws.of([Draw(0.7, 50, 0.9)] * 3, logits.device))
    mixtures()
    print(driver.compiled)


def mixtures() -> None:
    """Mixtures of experts with all tiles, in all types, and of a width that no tile divides.

    Nothing is computed, so any routing will do.
    """
    mix, experts = mix_experts.on("triton"), 3
    for size in (*SIZES, 2 * SIZES[-1]):
        for width in (128, 96):
            gate_up, down = torch.zeros(experts, 2 * width, width), torch.zeros(experts, width, width)
            x = torch.zeros(size, width, dtype=torch.bfloat16)
            to = route.on("triton")(x[:, : experts + 1], chosen=2, normalized=True, shared=1)
            mix(x, gate_up.bfloat16(), down.bfloat16(), to)
        eight = [Fp8Matrix(each.to(FP8), each[..., :1].contiguous()) for each in (gate_up, down)]
        mix(x, eight[0], eight[1], to)
        mix(x.float(), gate_up, down, to)
