"""Compiling what steps that read prompts need before requests wait for it."""

from __future__ import annotations

import torch

from weft.kernels.extend import ExtendBatch
from weft.kernels.tables import KVTable
from weft.runtime.kv.pool import KVPool

from .device_model import DeviceModel, Forward
from .table import IDLE, Pages

__all__ = ["warm_up"]

_TILES = (16, 64, 256)  # rows of queries, of each of which extend attention has a variant
_WIDTHS = (256, 4096)  # keys that it does not split, and that it does


def warm_up(model: DeviceModel, pool: KVPool, pages: Pages) -> None:
    """Run such steps, each beside a decode, on the row of what pads a batch and on the pool's last slot."""
    group = model.config.heads // model.config.kv_heads

    def full(count: int, value: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.full((count,), value, dtype=dtype, device=model.device)

    row = full(1, IDLE, torch.int32)
    for size in (*(max(tile // group, 2) for tile in _TILES), *(size - 1 for size in model.warm_sizes)):
        count = min(size, pages.width)
        positions = torch.arange(count, device=model.device)
        starts = torch.tensor([0, count], dtype=torch.int32, device=model.device)
        for width in _WIDTHS:
            forward = Forward(
                ids=full(count + 1, 0),
                slots=full(count + 1, pool.slots - 1),
                positions=torch.cat([full(1, 0), positions]),
                table=KVTable(pages.slots[:, : max(width, count)]),
                rows=row,
                lengths=full(1, 1, torch.int32),
                extend=ExtendBatch(row, starts, positions.int()),
                wanted=full(1, 0),
            )
            model.compute(forward, pool)
