"""What a device can do: its bandwidth, its rate of products, and the speed that they allow a model."""

from __future__ import annotations

from typing import Any

import torch

from weft.kernels.fp8 import Fp8Matrix, fp8_linear
from weft.runtime.cuda import CUDA
from weft.runtime.llm.config import ModelConfig
from weft.runtime.llm.gpu.model import GpuModel

__all__ = ["copy_bandwidth", "layers_weights", "product_rate", "roofline", "seconds"]

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
    head = c.vocab_size * c.hidden_size
    read, used = layers_weights(c, batch)
    each = 1 if model.fp8 else _INT4 if model.int4 else model.dtype.itemsize  # bytes
    weights = read * each + head * model.dtype.itemsize
    bytes_read = weights + batch * context * model.kv_bytes_per_token
    operations = 2 * batch * (used + head) + 4 * batch * context * c.layers * c.heads * c.head_dim
    return batch / max(bytes_read / bandwidth, operations / rate)


def layers_weights(config: ModelConfig, batch: int) -> tuple[float, float]:
    """Of all layers: the weights that a step of `batch` tokens reads, and those that each token needs.

    Of experts those are read that some token goes through: so many as are expected if each token chooses
    evenly, and for itself.
    """
    c = config
    attention = c.hidden_size * (2 * c.heads + 2 * c.kv_heads) * c.head_dim
    dense = 3 * c.hidden_size * c.intermediate_size
    if c.experts is None:
        return c.layers * (attention + dense), c.layers * (attention + dense)
    e = c.experts
    mixed, each = len(e.layers), 3 * c.hidden_size * e.intermediate_size
    rest = c.layers * attention + (c.layers - mixed) * dense + mixed * e.count * c.hidden_size
    distinct = e.count * (1 - (1 - e.chosen / e.count) ** batch)
    return rest + mixed * (distinct + e.shared) * each, rest + mixed * (e.chosen + e.shared) * each
