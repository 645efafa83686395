"""The same checkpoint as the model of a CPU, and as that of a GPU, whose kernels have torch references."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from weft.runtime.llm.config import read_config
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.loader import load_weights
from weft.runtime.llm.model import Model, load_model

__all__ = ["KINDS", "Kind", "load_as"]

Kind = Literal["cpu", "gpu"]
KINDS: tuple[Kind, ...] = ("cpu", "gpu")


def load_as(kind: Kind, folder: Path) -> Model:
    """A checkpoint in float32, on the CPU."""
    if kind == "cpu":
        return load_model(folder, dtype="float32", device="cpu")
    config = read_config(folder)
    weights = load_weights(folder, config, dtype=torch.float32, device=torch.device("cpu"))
    return GpuModel(config, weights, name=folder.name)
