"""Loading a model: the checkpoint, and the implementation that suits the device."""

from __future__ import annotations

from pathlib import Path

import torch

from .config import read_config
from .cpu.model import CpuModel
from .fused import FusedModel
from .gpu.model import GpuModel
from .loader import choose_device, choose_dtype, load_weights, resolve_folder
from .model_base import Model

__all__ = ["Model", "load_model"]


def load_model(model: str | Path, *, dtype: str = "auto", device: str = "auto") -> Model:
    """Load a checkpoint from a folder or a hub name; raises `ModelError` with the reason if it cannot be."""
    folder = resolve_folder(model)
    config = read_config(folder)
    chosen = choose_device(device)
    weights = load_weights(folder, config, dtype=choose_dtype(dtype, config, chosen), device=chosen)
    kind: type[CpuModel] | type[GpuModel] | type[FusedModel] = FusedModel
    if chosen.type == "cuda":
        kind = GpuModel
    elif weights.embedding.dtype == torch.float32:
        kind = CpuModel
    return kind(config, weights, name=folder.resolve().name)
