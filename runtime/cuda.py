"""torch's CUDA module, taken as untyped: the constructors of its events and streams have no types."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

__all__ = ["CUDA", "on_device"]

CUDA: Final[Any] = torch.cuda


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Have kernels, streams and events of this thread belong to `device`, if it is a GPU."""
    return CUDA.device(device) if device.type == "cuda" else nullcontext()
