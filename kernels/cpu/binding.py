"""The structures and functions of `transformer.c` for Python, and weights laid out as it wants them."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from typing import ClassVar

import torch

__all__ = ["CLayer", "CMatrix", "CModel", "CStep", "Matrix", "declare"]


class CMatrix(ctypes.Structure):
    """`struct matrix`; `Matrix.c` makes one."""

    _fields_: ClassVar = [
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
    ]


class CLayer(ctypes.Structure):
    """`struct layer`."""

    _fields_: ClassVar = [
        ("input_norm", c_void_p),
        ("post_norm", c_void_p),
        ("qk_norm", c_void_p),
        ("window", c_int64),
        ("qkv", CMatrix),
        ("out", CMatrix),
        ("gate", CMatrix),
        ("up", CMatrix),
        ("down", CMatrix),
    ]


class CModel(ctypes.Structure):
    """`struct model`."""

    _fields_: ClassVar = [
        ("layers", c_int64),
        ("hidden", c_int64),
        ("inner", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("eps", c_float),
        ("layer", POINTER(CLayer)),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("head", CMatrix),
    ]


class CStep(ctypes.Structure):
    """`struct step`."""

    _fields_: ClassVar = [
        ("tokens", c_int64),
        ("sequences", c_int64),
        ("wanted", c_int64),
        ("ids", c_void_p),
        ("positions", c_void_p),
        ("new_slots", c_void_p),
        ("wanted_rows", c_void_p),
        ("slots", c_void_p),
        ("key_starts", c_void_p),
        ("query_counts", c_void_p),
        ("pool_slots", c_int64),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("logits", c_void_p),
    ]


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the types of the library's functions."""
    library.weft_panel.restype = c_int
    library.weft_panel.argtypes = []
    library.weft_most_group.restype = c_int
    library.weft_most_group.argtypes = []
    library.weft_open.restype = c_void_p
    library.weft_open.argtypes = [POINTER(CModel), c_int]
    library.weft_run.restype = c_int
    library.weft_run.argtypes = [c_void_p, POINTER(CStep), c_int]
    library.weft_close.restype = None
    library.weft_close.argtypes = [c_void_p]
    return library


class Matrix:
    """A linear layer's weights in panels of `panel` outputs, zeros behind the last."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, panel: int) -> None:
        """Lay out `weight` [out, in] and `bias` [out], float32, anew; the given tensors are not kept."""
        self._outputs, self._inputs = weight.shape
        panels = -(-self._outputs // panel)
        padded = torch.zeros(panels * panel, self._inputs)
        padded[: self._outputs] = weight
        self._panels = padded.view(panels, panel, self._inputs).transpose(1, 2).contiguous()
        self._bias: torch.Tensor | None = None
        if bias is not None:
            self._bias = torch.zeros(panels * panel)
            self._bias[: self._outputs] = bias

    @property
    def c(self) -> CMatrix:
        """As C sees it, while this object lives."""
        bias = None if self._bias is None else self._bias.data_ptr()
        return CMatrix(self._panels.data_ptr(), bias, self._inputs, self._outputs)
