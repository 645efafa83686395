"""The same checkpoint as each of the models that compute it.

Those of a CPU are compiled from C, or made of torch's operations; that of a GPU has kernels with torch
references.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from weft.kernels.cpu.library import load as load_library
from weft.runtime.llm.config import read_config
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.loader import load_weights
from weft.runtime.llm.model import Model, load_model

__all__ = ["KINDS", "Kind", "load_as"]

Kind = Literal["native", "cpu", "gpu"]
KINDS: tuple[Kind, ...] = ("native", "cpu", "gpu")


def load_as(kind: Kind, folder: Path) -> Model:
    """A checkpoint in float32, on the CPU."""
    if kind == "native" and load_library() is None:
        pytest.skip("there is no C compiler")
    if kind == "native" and read_config(folder).experts is not None:
        pytest.skip("compiled steps have no experts")
    if kind != "gpu":
        return load_model(folder, dtype="float32", device="cpu", native=kind == "native")
    config = read_config(folder)
    weights = load_weights(folder, config, dtype=torch.float32, device=torch.device("cpu"))
    return GpuModel(config, weights, name=folder.name)
