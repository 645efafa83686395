"""The tensors of a checkpoint's safetensors files, as a model wants them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from weft.kernels.int4 import Int4Matrix

from .config import ModelConfig
from .errors import ModelError
from .packing import PACKED, Packed, read_packed
from .parallel.shard import Shard
from .quantization import FACTORS, dequantize

__all__ = ["Matrix", "Source"]

Matrix = torch.Tensor | Int4Matrix

_FP8: Final = "F8_E4M3"  # as safetensors names it


class Source:
    """The tensors of a checkpoint, by name."""

    def __init__(
        self, folder: Path, dtype: torch.dtype, device: torch.device, shard: Shard, config: ModelConfig
    ) -> None:
        self.folder = folder
        self.dtype = dtype
        self.device = device
        self.shard = shard
        self.blocks = config.blocks
        self.packing = config.packing
        self.files: dict[str, Any] = {}  # open safetensors files by the tensors they hold
        for path in _tensor_files(folder):
            with _reading(path):
                file: Any = safe_open(path, framework="pt", device=str(device))  # its methods have no types
                self.files.update(dict.fromkeys(file.keys(), file))

    def get(self, name: str, *shape: int, cut: int | None = None) -> torch.Tensor:
        """The tensor `name`, which must have `shape`; along the dimension `cut` only the shard's part."""
        whole = cut is None or self.shard.size == 1
        matrix = name.removesuffix(".weight")
        if self._is_packed(matrix):
            tensor = self._packed(matrix, *shape).dequantized()
        else:
            found = self._found(name, *shape)
            quantized = found.get_dtype() == _FP8
            with _reading(self.folder):
                tensor = self.files[name].get_tensor(name) if whole or quantized else found
            if quantized:
                tensor = self._dequantized(name, tensor)
        if cut is not None and not whole:
            part = self.shard.part(shape[cut])
            tensor = tensor[part] if cut == 0 else tensor[:, part]
        return tensor.to(dtype=self.dtype).contiguous()  # a part of every row is cut from all of the tensor

    def __contains__(self, name: str) -> bool:
        """See `Tensors`."""
        return name in self.files

    def whole(self, name: str, *shape: int) -> torch.Tensor:
        """See `Tensors`."""
        self._found(name, *shape)
        with _reading(self.folder):
            tensor: torch.Tensor = self.files[name].get_tensor(name)
        return tensor

    def _found(self, name: str, *shape: int) -> Any:
        """Of a tensor, which must have `shape`, what safetensors has before it reads it."""
        file = self.files.get(name)
        if file is None:
            matrix = name.removesuffix(".weight")
            packed = any(f"{matrix}.{part}" in self.files for part in PACKED.values())
            why = ": it is quantized, of which config.json says nothing" if packed else ""
            raise ModelError(f"checkpoint {str(self.folder)!r} lacks the tensor {name!r}{why}")
        with _reading(self.folder):
            found = file.get_slice(name)
            if found.get_shape() != list(shape):
                raise ModelError(
                    f"tensor {name!r} of {str(self.folder)!r} has shape {found.get_shape()}; "
                    f"config.json asks for {list(shape)}"
                )
        return found

    def _dequantized(self, name: str, values: torch.Tensor) -> torch.Tensor:
        if self.blocks is None:
            raise ModelError(
                f"tensor {name!r} of {str(self.folder)!r} is in 8 bits, of which config.json says nothing"
            )
        names = [name.removesuffix("weight") + factors for factors in FACTORS]
        its = next((each for each in names if each in self.files), None)
        if its is None:
            either = " or ".join(map(repr, names))
            raise ModelError(f"checkpoint {str(self.folder)!r} lacks the tensor {either}")
        with _reading(self.folder):
            factors: torch.Tensor = self.files[its].get_tensor(its)
        try:
            return dequantize(values, factors, self.blocks)
        except ValueError as problem:
            raise ModelError(f"tensor {its!r} of {str(self.folder)!r} {problem}") from None

    def _is_packed(self, matrix: str) -> bool:
        """Whether a matrix is in 4 bits, which those that the quantization has left alone are not."""
        return self.packing is not None and f"{matrix}.{PACKED[self.packing.method]}" in self.files

    def _packed(self, matrix: str, rows: int, width: int) -> Packed:
        assert self.packing is not None
        try:
            return read_packed(self.packing, self, matrix, rows, width)
        except ValueError as problem:
            raise ModelError(f"matrix {matrix!r} of {str(self.folder)!r} has {problem}") from None

    def merged(self, parts: Mapping[str, int], width: int, cut: int = 0) -> torch.Tensor:
        """The matrices of several projections of one input, as one; of each the shard's part."""
        matrices = [self.get(f"{name}.weight", rows, width, cut=cut) for name, rows in parts.items()]
        return matrices[0] if len(matrices) == 1 else torch.cat(matrices)

    def merged_bias(self, parts: Mapping[str, int]) -> torch.Tensor:
        """The biases that belong to `merged`."""
        return torch.cat([self.get(f"{name}.bias", rows, cut=0) for name, rows in parts.items()])

    def packed(self, parts: Mapping[str, int], width: int, cut: int) -> Matrix:
        """The same in the 4 bits of the checkpoint, if all of it is; else as `merged`."""
        if not all(map(self._is_packed, parts)):
            return self.merged(parts, width, cut)
        matrices = [self._own(name, rows, width, cut) for name, rows in parts.items()]
        with self._multiplied(*parts):
            return Int4Matrix.cat(matrices)

    def _own(self, matrix: str, rows: int, width: int, cut: int) -> Int4Matrix:
        """The shard's part of a matrix that is in 4 bits."""
        packed = self._packed(matrix, rows, width)
        with self._multiplied(matrix):
            if self.shard.size > 1:
                part = self.shard.part((rows, width)[cut])
                packed = packed.columns(part) if cut else packed.rows(part)
            return packed.matrix()

    def rounded(self, parts: Mapping[str, int], width: int, cut: int) -> Matrix:
        """The same, rounded to 4 bits here."""
        merged = self.merged(parts, width, cut)
        with self._multiplied(*parts):
            return Int4Matrix.of(merged)

    @contextmanager
    def _multiplied(self, *matrices: str) -> Iterator[None]:
        """Say which matrices have no product in 4 bits, why, and what can be done."""
        try:
            yield
        except ValueError as problem:
            fewer = "lower tensor_parallel, or " if self.shard.size > 1 else ""
            raise ModelError(
                f"{', '.join(matrices)} of {str(self.folder)!r} cannot be multiplied in 4 bits, "
                f"for {problem}: {fewer}set quantization = 'none'"
            ) from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of reading safetensors into a `ModelError` that names the file."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{str(path)!r} is damaged or unreadable: {error}") from error


def _tensor_files(folder: Path) -> Sequence[Path]:
    """The safetensors files: those that the index names, else the single one."""
    index = folder / "model.safetensors.index.json"
    paths = sorted(set(_indexed(index))) if index.is_file() else [folder / "model.safetensors"]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"checkpoint {str(folder)!r} lacks {path.name}")
    return paths


def _indexed(index: Path) -> Iterator[Path]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{str(index)!r} is no safetensors index: {error!r}") from error
    return (index.parent / name for name in names)
