"""Packs matrices into 4 bits as AWQ, GPTQ and compressed-tensors do, number by number."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from .test_loader import edit_json

__all__ = ["FORMS", "Form", "Groups", "packed", "rounded"]

GROUP: Final = 32
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Groups:
    """A matrix [out, in] in 4 bits; `index` says which group each column is in."""

    numbers: torch.Tensor
    scales: torch.Tensor  # [out, groups]
    zeros: torch.Tensor  # [out, groups]
    index: list[int]

    def weight(self) -> torch.Tensor:
        """What it stands for, in float32."""
        scales, zeros = (each.float()[:, self.index] for each in (self.scales, self.zeros))
        return (self.numbers.float() - zeros) * scales


@dataclass(frozen=True)
class Form:
    """One of the formats, in a variant."""

    said: dict[str, Any]  # in config.json
    pack: Callable[[Groups], dict[str, torch.Tensor]]
    group: int | None = GROUP
    symmetric: bool = False
    shuffled: bool = False  # whether a group's columns are no neighbours


def words(rows: list[list[int]], order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Eight numbers of a row to a word: that at `order[i]` in its i-th four bits."""

    def word(eight: list[int]) -> int:
        bits = sum(eight[place] << 4 * at for at, place in enumerate(order))
        return bits - (1 << 32) if bits >> 31 else bits

    padded = [row + [0] * (-len(row) % 8) for row in rows]
    packed = [[word(row[at : at + 8]) for at in range(0, len(row), 8)] for row in padded]
    return torch.tensor(packed, dtype=torch.int32)


def awq(groups: Groups) -> dict[str, torch.Tensor]:
    return {
        "qweight": words(groups.numbers.t().tolist(), _AWQ_ORDER),
        "qzeros": words(groups.zeros.t().tolist(), _AWQ_ORDER),
        "scales": groups.scales.t().contiguous(),
    }


def gptq(groups: Groups, less: int = 1) -> dict[str, torch.Tensor]:
    return {
        "qweight": words(groups.numbers.tolist()).t().contiguous(),
        "qzeros": words((groups.zeros - less).t().tolist()),
        "scales": groups.scales.t().contiguous(),
        "g_idx": torch.tensor(groups.index, dtype=torch.int32),
    }


def gptq_v2(groups: Groups) -> dict[str, torch.Tensor]:
    return gptq(groups, less=0)


def compressed(groups: Groups) -> dict[str, torch.Tensor]:
    return {
        "weight_packed": words(groups.numbers.tolist()),
        "weight_scale": groups.scales,
        "weight_shape": torch.tensor(groups.numbers.shape),
    }


def with_zeros(groups: Groups) -> dict[str, torch.Tensor]:
    zeros = words(groups.zeros.t().tolist()).t().contiguous()
    return compressed(groups) | {"weight_zero_point": zeros}


def with_index(groups: Groups) -> dict[str, torch.Tensor]:
    return compressed(groups) | {"weight_g_idx": torch.tensor(groups.index, dtype=torch.int32)}


def _compressed(**fields: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    group = {
        "targets": ["Linear"],
        "weights": weights | {"actorder": None} | fields,
        "input_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


_GPTQ: Final = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "desc_act": False}

FORMS: Final[Mapping[str, Form]] = {
    "awq": Form(
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "GEMM"}, awq
    ),
    "gptq": Form(_GPTQ | {"checkpoint_format": "gptq", "pack_dtype": "int32"}, gptq),
    "gptq_symmetric": Form(_GPTQ | {"sym": True}, gptq, symmetric=True),
    "gptq_v2": Form(_GPTQ | {"checkpoint_format": "gptq_v2"}, gptq_v2),
    "gptq_rows": Form(_GPTQ | {"group_size": -1}, gptq, group=None),
    "gptq_ordered": Form(_GPTQ | {"desc_act": True}, gptq, shuffled=True),
    "compressed": Form(_compressed(), compressed, symmetric=True),
    "compressed_zeros": Form(_compressed(symmetric=False), with_zeros),
    "compressed_rows": Form(
        _compressed(strategy="channel", group_size=None), compressed, None, symmetric=True
    ),
    "compressed_ordered": Form(_compressed(actorder="group"), with_index, symmetric=True, shuffled=True),
}


def rounded(weight: torch.Tensor, form: Form, seed: int = 0) -> Groups:
    """A matrix near `weight`, with groups as `form` has them; a seed gives one order of columns."""
    columns = weight.shape[1]
    group = form.group or columns
    index = [column // group for column in range(columns)]
    if form.shuffled:
        order = torch.randperm(columns, generator=torch.Generator().manual_seed(seed)).tolist()
        index = [index[place] for place in order]
    members = [[column for column in range(columns) if index[column] == at] for at in range(max(index) + 1)]
    tiles = torch.stack([weight[:, each] for each in members], dim=1)  # [out, groups, columns]
    least, most = tiles.amin(-1).clamp_max(-1e-3), tiles.amax(-1).clamp_min(1e-3)
    if form.symmetric:
        scales = (torch.maximum(-least, most) / 7).half()
        zeros = torch.full(scales.shape, 8)
    else:
        scales = ((most - least) / 14).half()
        zeros = (-least / scales.float()).round().int().clamp(1, 15)
    numbers = (weight / scales.float()[:, index] + zeros[:, index]).round().clamp(0, 15).int()
    return Groups(numbers, scales, zeros, index)


def packed(plain: Path, form: Form, *, keeping: str = "lm_head") -> Path:
    """The checkpoint with its projections in 4 bits, but for those `keeping`; `plain` then has what these
    stand for."""
    folder = Path(shutil.copytree(plain, plain.with_name("packed")))
    tensors, given_back = load_file(plain / "model.safetensors"), {}
    for name, weight in list(tensors.items()):
        given_back[name] = weight
        if "_proj.weight" in name and keeping not in name:
            groups = rounded(weight, form)
            parts = form.pack(groups)
            del tensors[name]
            tensors |= {name.removesuffix("weight") + part: tensor for part, tensor in parts.items()}
            given_back[name] = groups.weight()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(given_back, plain / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", lambda config: config.update(quantization_config=form.said))
    return folder
