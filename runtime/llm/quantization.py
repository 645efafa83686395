"""What a checkpoint says of weights in 8 bits, and in how many bits a model is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import torch

from .errors import ModelError

__all__ = ["FACTORS", "Blocks", "Quantization", "choose_quantization", "dequantize", "read_blocks"]

Quantization = Literal["auto", "none", "fp8", "int4"]
"""How a model's matrices are kept: as they are; in 8 bits with a factor a row, which halves what a step reads
of them; or in 4 bits with a scale and a zero for each group of columns, which quarters it. `auto` is as the
checkpoint's are, if the GPU can, else as they are."""

Blocks = tuple[int, int]
"""The rows and columns that share a factor, where a checkpoint in 8 bits has a table of factors."""

FACTORS: Final = ("weight_scale", "weight_scale_inv")
"""What the tensor of a matrix's factors is called, in place of "weight"; the second name means the same."""

_BLOCKS: Final = (128, 128)  # where nothing is said
_CAPABILITIES: Final = {"fp8": (8, 9), "int4": (8, 0)}  # the first with units for 8-bit floats; for bfloat16


def read_blocks(raw: Mapping[str, Any]) -> Blocks | None:
    """What `config.json` says of the weights; None: that they are not quantized.

    Read are the formats "fp8" (as of DeepSeek and Qwen) and "float-quantized" of compressed-tensors. Raises
    `ModelError`, with words that the caller has to say of whom, for others.
    """
    said = raw.get("quantization_config")
    if not said:
        return None
    method = said.get("quant_method")
    if method == "fp8" and said.get("fmt", "e4m3") == "e4m3":
        return _checked(said.get("weight_block_size"))
    if method == "compressed-tensors" and said.get("format") == "float-quantized":
        groups = (said.get("config_groups") or {}).values()
        weights = [group.get("weights") or {} for group in groups]
        if weights and all(each.get("type") == "float" and each.get("num_bits") == 8 for each in weights):
            return _checked(weights[0].get("block_structure"))
    known = (
        "weights in fp8 are read (quant_method 'fp8', or 'compressed-tensors' of format 'float-quantized') "
        "and in 4 bits ('awq', 'gptq', or 'compressed-tensors' of format 'pack-quantized')"
    )
    raise ModelError(f"its quantization, {method!r}, is not supported: {known}; or use the unquantized one")


def _checked(said: Any) -> Blocks:
    match said:
        case None:
            return _BLOCKS
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
    raise ModelError(f"the blocks of its quantization must be two positive integers, not {said!r}")


def dequantize(values: torch.Tensor, factors: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    """The matrix, float32 [rows, columns], that `values` in 8 bits stand for.

    There is one factor for all of it, one for each row, [rows] or [rows, 1], or a table of them, one for each
    of its `blocks`. Raises `ValueError` if there are other numbers of them.
    """
    rows, columns = values.shape
    factors = factors.float()
    if factors.numel() == 1:
        factors = factors.reshape(1, 1)
    elif tuple(factors.shape) in ((rows,), (rows, 1)):
        factors = factors.reshape(rows, 1)
    else:
        high, wide = blocks
        expected = [-(-rows // high), -(-columns // wide)]
        if list(factors.shape) != expected:
            raise ValueError(
                f"has {list(factors.shape)} factors; for blocks of {high} x {wide} {expected} fit"
            )
        factors = factors.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :columns]
    return values.float().mul_(factors)


def choose_quantization(wanted: Quantization, published: Quantization, device: torch.device) -> Quantization:
    """`auto` is what the checkpoint is `published` in, where the device can.

    Raises `ModelError` for a device that cannot and should.
    """
    chosen = published if wanted == "auto" else wanted
    if chosen not in _CAPABILITIES:
        return "none"
    least = _CAPABILITIES[chosen]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= least:
        return chosen
    if wanted == "auto":
        return "none"
    raise ModelError(
        f"quantization {wanted!r} takes an NVIDIA GPU of compute capability {'.'.join(map(str, least))} "
        f"or newer, and {device} is none"
    )
