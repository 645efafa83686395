"""Loading a model: the checkpoint, and the implementation that suits the device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from weft.kernels.cpu.library import load as load_library

from .config import ModelConfig, VariantError, family_of, read_config, read_json
from .cpu.model import CpuModel
from .cpu.native import NativeModel
from .errors import ModelError
from .fused import FusedModel
from .gpu.model import GpuModel
from .hosted.loading import load_hosted
from .hub import resolve_folder
from .loader import choose_device, choose_devices, choose_dtype, load_int4_weights, load_weights
from .model_base import Model
from .parallel.comm import ALONE, Communicator
from .parallel.shard import Shard
from .parallel.share import share
from .quantization import Quantization, choose_quantization

__all__ = ["Code", "Model", "load_model"]

_log = logging.getLogger(__name__)

Code = Literal["auto", "weft", "transformers"]
"""Whose code computes a model: weft's for the families that it has code for, else that of transformers."""


def load_model(
    model: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    native: bool = True,
    tensor_parallel: int = 1,
    code: Code = "auto",
    quantization: Quantization = "auto",
) -> Model:
    """Load a checkpoint from a folder or a hub name; raises `ModelError` with the reason if it cannot be.

    `code`: whose computes it; `auto` is weft's for the families and variants that it has, else that of
    transformers.

    `native`: in float32 on a CPU, compute in compiled C if there is a compiler and the model has no experts,
    else by torch's operations.

    `quantization`: of the layers' matrices, by weft's code for GPUs. A checkpoint in 8 or 4 bits that is not
    computed in them is given back its numbers.

    With `tensor_parallel`, so many processes share the model, this one being the first. They take the GPUs
    from `device` on; on a CPU they run the torch functions beside the GPU's kernels, and exchange through
    gloo, which is for trying it out. `Model.close` ends them. Raises `ParallelError` if one cannot load its
    part.
    """
    folder = resolve_folder(model)
    config = _own_config(folder, code)
    if config is None:
        if tensor_parallel > 1:
            raise ModelError(
                f"{str(folder)!r} runs through transformers, in one process: tensor_parallel must be 1"
            )
        if quantization not in ("auto", "none"):
            raise ModelError(
                f"{str(folder)!r} runs through transformers, which takes no quantization {quantization!r}"
            )
        return load_hosted(folder, dtype=dtype, device=choose_device(device))
    devices = choose_devices(device, tensor_parallel) if tensor_parallel > 1 else [choose_device(device)]
    chosen = devices[0]
    if quantization == "int4" and config.experts is not None:
        raise ModelError(
            f"{str(folder)!r} has experts, which are not kept in 4 bits: set quantization = 'auto', "
            f"or 'fp8' on a GPU that computes in it"
        )
    kept = choose_quantization(quantization, config.published, chosen)
    if config.packing and config.experts is not None:
        _log.warning("%r is not kept in 4 bits, for it has experts: it takes more memory", str(folder))
    if tensor_parallel > 1:
        return _load_shared(folder, config, dtype, devices, kept)
    chosen_dtype = choose_dtype(dtype, config, chosen)
    if chosen.type == "cuda":
        return _load_part(folder, config, chosen_dtype, kept, chosen, ALONE)
    weights = load_weights(folder, config, dtype=chosen_dtype, device=chosen)
    name = folder.resolve().name
    if weights.embedding.dtype != torch.float32:
        return FusedModel(config, weights, name=name)
    if native and config.experts is not None:
        _log.info("model %r: experts are computed by torch's operations, not by compiled steps", name)
    elif native and (library := load_library()) is not None and config.group <= library.weft_most_group():
        return NativeModel(config, weights, library, name=name)
    return CpuModel(config, weights, name=name)


def _own_config(folder: Path, code: Code) -> ModelConfig | None:
    """What weft's own code needs to know of a checkpoint; None: that of transformers is to compute it."""
    own = family_of(read_json(folder / "config.json")) is not None
    if code == "transformers" or (code == "auto" and not own):
        return None
    try:
        return read_config(folder)
    except VariantError as error:
        if code == "weft":
            raise
        _log.warning("%s; transformers' code computes it, more slowly", error)
        return None


def _load_shared(
    folder: Path, config: ModelConfig, dtype: str, devices: Sequence[torch.device], kept: Quantization
) -> GpuModel:
    Shard(0, len(devices)).config(config)  # refuses what cannot be cut, before any process is started
    chosen = choose_dtype(dtype, config, devices[0])
    return share(partial(_load_part, folder, config, chosen, kept), devices)


def _load_part(
    folder: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    kept: Quantization,
    device: torch.device,
    comm: Communicator,
) -> GpuModel:
    """A rank's part of a checkpoint, with matrices that are `kept` in such bits."""
    read = load_int4_weights if kept == "int4" else load_weights
    weights = read(folder, config, dtype=dtype, device=device, shard=comm.shard)
    own, name = comm.shard.config(config), folder.resolve().name
    return GpuModel(own, weights, name=name, comm=comm, fp8=kept == "fp8")
