"""Small integers on their way to the device, as one transfer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from weft.runtime.cuda import CUDA

__all__ = ["Staging"]

_BUFFERS: Final = 2  # one is filled while the other may still be on its way


class Staging:
    """Pinned buffers that are used by turns."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = itertools.cycle([_Buffer(device) for _ in range(_BUFFERS)])

    def send(self, arrays: Sequence[NDArray[np.int64]]) -> list[torch.Tensor]:
        """The arrays as int32 tensors on the device, in one piece of memory; their values must fit."""
        sizes = [len(array) for array in arrays]
        buffer = next(self._buffers)
        values = buffer.room(sum(sizes))
        np.concatenate(arrays, out=values, casting="same_kind")
        return list(torch.split(buffer.send(len(values)), sizes))


class _Buffer:
    """Memory from which the device copies; it is not written before the last copy is done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._memory = torch.empty(0, dtype=torch.int32)
        self._copied: Any = None
        if self._on_gpu:
            self._copied = CUDA.Event()

    def room(self, size: int) -> NDArray[np.int32]:
        """The first `size` numbers."""
        if self._copied is not None:
            self._copied.synchronize()
        if size > len(self._memory):
            self._memory = torch.empty(2 * size, dtype=torch.int32, pin_memory=self._on_gpu)
        view: NDArray[np.int32] = self._memory.numpy()[:size]
        return view

    def send(self, size: int) -> torch.Tensor:
        """A copy of the first `size` numbers on the device."""
        if self._copied is None:
            return self._memory[:size].clone()
        sent = self._memory[:size].to(self._device, non_blocking=True)
        self._copied.record()
        return sent
