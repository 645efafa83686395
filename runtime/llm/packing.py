"""Weights in 4 bits, as AWQ, GPTQ and compressed-tensors publish them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import torch

from weft.kernels.int4 import Int4Matrix

from .errors import ModelError

__all__ = ["PACKED", "Packed", "Packing", "Tensors", "read_packed", "read_packing"]

Method = Literal["awq", "gptq", "compressed-tensors"]

PACKED: Final[Mapping[Method, str]] = {
    "awq": "qweight",
    "gptq": "qweight",
    "compressed-tensors": "weight_packed",
}
"""What the tensor of a matrix's numbers is called, in place of "weight"."""

_BITS: Final = 4
_EACH: Final = 8  # numbers in a word of 32 bits, the first in its lowest bits
_MIDDLE: Final = 8  # the zero where none is stored
_AWQ_COLUMNS: Final = [0, 4, 1, 5, 2, 6, 3, 7]  # where in a word of AWQ's the next of its numbers are
_ONES: Final = 0x11111111  # one for each number of a word, which carry as the formats' own tools have them
_ELSE: Final = "use another one, or the unquantized checkpoint"


@dataclass(frozen=True, slots=True)
class Packing:
    """What `config.json` says of matrices in 4 bits."""

    method: Method
    group: int | None  # neighbours in a row that share a scale and a zero; None: all of it
    ordered: bool  # whether they are no neighbours, but those that a tensor names
    zeros: bool = True  # whether these are stored
    less_one: bool = False  # whether what is stored is one less


class Tensors(Protocol):
    """Where the tensors of a matrix come from."""

    def __contains__(self, name: str) -> bool:
        """Whether there is such a tensor."""

    def whole(self, name: str, *shape: int) -> torch.Tensor:
        """The tensor, which must have `shape`; raises `ModelError`."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix [out, in] in 4 bits: its numbers, and the scale and the zero of each group of them."""

    numbers: torch.Tensor  # uint8 [out, in]
    scales: torch.Tensor  # [out, groups]
    zeros: torch.Tensor  # uint8 [out, groups]
    group: int  # columns of a group
    groups: torch.Tensor | None  # int64 [in]: the group of each column; None: those of neighbours

    def dequantized(self) -> torch.Tensor:
        """The matrix, float32, that the numbers stand for."""
        at = self.groups
        if at is None:
            at = _neighbours(self.numbers.shape[1], self.group, self.numbers.device)
        return (self.numbers.float() - self.zeros.float()[:, at]).mul_(self.scales.float()[:, at])

    def rows(self, part: slice) -> Packed:
        """Some of its rows."""
        return Packed(self.numbers[part], self.scales[part], self.zeros[part], self.group, self.groups)

    def columns(self, part: slice) -> Packed:
        """Some of its columns; raises ValueError if they cut a group."""
        if self.group >= self.numbers.shape[1]:
            return Packed(self.numbers[:, part], self.scales, self.zeros, self.group, None)
        if self.groups is not None or part.start % self.group or part.stop % self.group:
            raise ValueError(f"a cut through groups, to columns {part.start} to {part.stop}")
        own = slice(part.start // self.group, part.stop // self.group)
        return Packed(self.numbers[:, part], self.scales[:, own], self.zeros[:, own], self.group, None)

    def matrix(self) -> Int4Matrix:
        """The same for the kernels; raises ValueError for groups that these have no product for."""
        numbers, order = self.numbers, None
        last = numbers.shape[1] % self.group
        if last and self.scales.shape[1] > 1:
            raise ValueError(f"a last group of {last} columns, where others have {self.group}")
        if self.groups is not None:
            order = self.groups.argsort(stable=True)
            expected = _neighbours(len(order), self.group, order.device)
            if not torch.equal(self.groups[order], expected):
                raise ValueError(f"groups of other than {self.group} columns")
            numbers = numbers[:, order]
        return Int4Matrix.pack(numbers.contiguous(), self.scales, self.zeros, order)


def _neighbours(columns: int, group: int, device: torch.device) -> torch.Tensor:
    """The group of each column, where groups are of neighbours."""
    return torch.arange(columns, device=device) // group


def read_packing(raw: Mapping[str, Any]) -> Packing | None:
    """What `config.json` says of weights in 4 bits; None: nothing that is one of the three formats.

    Raises `ModelError`, with words that the caller has to say of whom, for variants that are not read.
    """
    said = raw.get("quantization_config") or {}
    match said.get("quant_method"):
        case "awq":
            _require(said, "bits", _BITS)
            _require({"version": str(said.get("version") or "gemm").lower()}, "version", "gemm")
            _require({"zero_point": True} | said, "zero_point", True)
            return Packing("awq", _group(said.get("group_size")), ordered=False)
        case "gptq":
            _require(said, "bits", _BITS)
            form = said.get("checkpoint_format") or said.get("format") or "gptq"
            if form != "gptq_v2":
                _require({"checkpoint_format": form}, "checkpoint_format", "gptq")
            _require({"pack_dtype": "int32"} | said, "pack_dtype", "int32")
            if any(not str(rule).startswith("-:") for rule in said.get("dynamic") or ()):
                raise ModelError(f"its 'dynamic' quantizes some matrices otherwise: {_ELSE}")
            ordered = bool(said.get("desc_act", False))
            return Packing("gptq", _group(said.get("group_size")), ordered, less_one=form == "gptq")
        case "compressed-tensors" if said.get("format") == "pack-quantized":
            return _read_compressed(said)
    return None


def _read_compressed(said: Mapping[str, Any]) -> Packing:
    groups = list((said.get("config_groups") or {}).values())
    weights = [group.get("weights") or {} for group in groups]
    if not weights or any(each != weights[0] for each in weights):
        raise ModelError(f"its 'config_groups' must quantize all weights alike: {_ELSE}")
    for group in groups:
        _require({"input_activations": None} | group, "input_activations", None)
    _require(weights[0], "type", "int")
    _require(weights[0], "num_bits", _BITS)
    strategy = weights[0].get("strategy")
    if strategy != "channel":
        _require(weights[0], "strategy", "group")
    return Packing(
        "compressed-tensors",
        None if strategy == "channel" else _group(weights[0].get("group_size")),
        ordered=weights[0].get("actorder") in ("group", "dynamic", True),
        zeros=not weights[0].get("symmetric", True),
    )


def _require(said: Mapping[str, Any], key: str, wanted: Any) -> None:
    if said.get(key) != wanted:
        raise ModelError(f"its {key!r} must be {wanted!r}, not {said.get(key)!r}: {_ELSE}")


def _group(said: Any) -> int | None:
    if said == -1:
        return None
    if not isinstance(said, int) or said < 1:
        raise ModelError(f"its 'group_size' must be -1 or a positive integer, not {said!r}: {_ELSE}")
    return said


def read_packed(packing: Packing, tensors: Tensors, name: str, out: int, columns: int) -> Packed:
    """The matrix [out, columns] called `name`; raises `ModelError`, and ValueError, to be said of it."""
    group = packing.group or columns
    count = -(-columns // group)
    if packing.method == "compressed-tensors":
        numbers, scales, zeros = _read_rows(packing, tensors, name, (out, columns, count))
    else:
        numbers, scales, zeros = _read_columns(packing, tensors, name, (out, columns, count))
    groups = None
    index = f"{name}.{'weight_g_idx' if packing.method == 'compressed-tensors' else 'g_idx'}"
    if packing.ordered or index in tensors:
        groups = tensors.whole(index, columns).long()
        if groups.numel() and not 0 <= int(groups.min()) <= int(groups.max()) < count:
            raise ValueError(f"columns of groups beyond its {count}")
        if torch.equal(groups, _neighbours(columns, group, groups.device)):
            groups = None
    return Packed(numbers, scales, zeros, group, groups)


def _read_columns(
    packing: Packing, tensors: Tensors, name: str, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of AWQ and GPTQ, whose matrices are [in, out]: AWQ packs along `out`, and GPTQ along `in`."""
    out, columns, count = shape
    zeros = _words(tensors, f"{name}.qzeros", count, -(-out // _EACH))
    scales = tensors.whole(f"{name}.scales", count, out).t()
    if packing.method == "awq":
        words = _words(tensors, f"{name}.qweight", columns, -(-out // _EACH))
        numbers, stored = (_reordered(_unpacked(each)) for each in (words, zeros))
        return numbers[:, :out].t(), scales, stored[:, :out].t()
    words = _words(tensors, f"{name}.qweight", -(-columns // _EACH), out)
    stored = _unpacked(zeros + _ONES if packing.less_one else zeros)
    return _unpacked(words.t())[:, :columns], scales, stored[:, :out].t()


def _read_rows(
    packing: Packing, tensors: Tensors, name: str, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of compressed-tensors, whose matrices are [out, in], packed along `in`, and their zeros along `out`."""
    out, columns, count = shape
    numbers = _unpacked(_words(tensors, f"{name}.weight_packed", out, -(-columns // _EACH)))[:, :columns]
    scales = tensors.whole(f"{name}.weight_scale", out, count)
    if not packing.zeros:
        return numbers, scales, torch.full(scales.shape, _MIDDLE, dtype=torch.uint8, device=scales.device)
    zeros = _words(tensors, f"{name}.weight_zero_point", -(-out // _EACH), count)
    return numbers, scales, _unpacked(zeros.t())[:, :out].t()


def _words(tensors: Tensors, name: str, *shape: int) -> torch.Tensor:
    words = tensors.whole(name, *shape)
    if words.dtype != torch.int32:
        raise ValueError(f"words of {words.dtype}, not torch.int32, in {name!r}")
    return words


def _unpacked(words: torch.Tensor) -> torch.Tensor:
    """The numbers of words of 32 bits, uint8 [rows, 8 * columns]."""
    pairs = words.contiguous().view(torch.uint8)
    return torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten(1)


def _reordered(numbers: torch.Tensor) -> torch.Tensor:
    """AWQ's numbers in the order of its columns."""
    return numbers.view(len(numbers), -1, _EACH)[:, :, _AWQ_COLUMNS].flatten(1)
