"""What a device can do: its bandwidth, its rate of products, and the speed that they allow a model."""

from __future__ import annotations

from typing import Any

import torch

from weft.kernels.fp8 import Fp8Matrix, fp8_linear
from weft.runtime.cuda import CUDA
from weft.runtime.llm.gpu.model import GpuModel

__all__ = ["copy_bandwidth", "product_rate", "roofline", "seconds"]

_INT4 = 0.5 + 4 / 128  # bytes of a number, with its share of what a group has


def copy_bandwidth() -> float:
    """Bytes a second that the device reads and writes while it copies."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), 20)


def product_rate(*, fp8: bool = False) -> float:
    """Floating-point operations a second of a large product, in bfloat16 or in 8 bits."""
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    if fp8:
        matrix = Fp8Matrix.of(b)
        return 2 * 8192**3 / seconds(lambda: fp8_linear(a, matrix), 20)
    return 2 * 8192**3 / seconds(lambda: torch.matmul(a, b), 20)


def seconds(run: Any, repeats: int) -> float:
    """The device's time for a run, of so many on end."""
    for _ in range(3):
        run()
    start, end = (CUDA.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeats


def roofline(model: GpuModel, batch: int, context: float, bandwidth: float, rate: float) -> float:
    """Tokens a second that a step of decodes cannot exceed."""
    c = model.config
    qkv = (c.heads + 2 * c.kv_heads) * c.head_dim
    layer = c.hidden_size * (qkv + c.heads * c.head_dim + 3 * c.intermediate_size)
    head = c.vocab_size * c.hidden_size
    parameters = c.layers * layer + head
    each = 1 if model.fp8 else _INT4 if model.int4 else model.dtype.itemsize  # bytes
    weights = c.layers * layer * each + head * model.dtype.itemsize
    bytes_read = weights + batch * context * model.kv_bytes_per_token
    operations = 2 * batch * parameters + 4 * batch * context * c.layers * c.heads * c.head_dim
    return batch / max(bytes_read / bandwidth, operations / rate)
