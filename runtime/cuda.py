"""torch's CUDA module, taken as untyped: the constructors of its events and streams have no types."""

from __future__ import annotations

from typing import Any, Final

import torch

__all__ = ["CUDA"]

CUDA: Final[Any] = torch.cuda
