"""Whether a CUDA graph may hold a model's step: its code must leave the device alone with it."""

from __future__ import annotations

import warnings

import torch

from weft.kernels.tables import KVTable
from weft.runtime.cuda import CUDA, on_device

from ..gpu.device_model import DeviceModel, Forward

__all__ = ["waits_for_device"]


def waits_for_device(model: DeviceModel) -> bool:
    """Compute a step of one decode: whether the code waits for what the device computes.

    So does code that branches on numbers, or copies some to the device, which a graph could not repeat.
    """
    pool = model.allocate_pool(1)

    def one(dtype: torch.dtype, value: int) -> torch.Tensor:
        return torch.full((1,), value, dtype=dtype, device=model.device)

    step = Forward(
        ids=one(torch.int64, 0),
        slots=one(torch.int64, 0),
        positions=one(torch.int64, 0),
        table=KVTable(one(torch.int32, 0)[None]),
        rows=one(torch.int32, 0),
        lengths=one(torch.int32, 1),
    )
    with on_device(model.device):
        model.compute(step, pool)  # compiles and keeps what is needed once
        before = CUDA.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls this mode a prototype
            CUDA.set_sync_debug_mode("error")
            try:
                model.compute(step, pool)
            except RuntimeError as error:
                if "synchronizing" not in str(error):
                    raise
                return True
            finally:
                CUDA.set_sync_debug_mode(before)
    return False
