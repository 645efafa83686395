"""What a further rank of a model is told first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .comm import Collective
from .shard import Shard

if TYPE_CHECKING:
    from ..gpu.model import GpuModel

__all__ = ["Assignment", "Build"]

Build = Callable[[torch.device, Collective], "GpuModel"]
"""Makes the part of a model that a rank has."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which part of what it is to have, and where."""

    shard: Shard
    device: torch.device
    threads: int  # of torch
    build: Build
