"""Loading of Hugging Face checkpoints: their tensors, merged for the fused path."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import pad

from .config import Experts, ModelConfig
from .cpu.bfloat16 import bfloat16_pays
from .errors import ModelError
from .parallel.shard import WHOLE, Shard
from .quantization import FACTORS, Blocks, dequantize

__all__ = [
    "LayerWeights",
    "Weights",
    "choose_device",
    "choose_devices",
    "choose_dtype",
    "dtype_named",
    "load_weights",
]

_FP8 = "F8_E4M3"  # as safetensors names it
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer, or a rank's part of it, which has fewer heads and a smaller intermediate width.

    Matrices are [out, in]. Where there is a router, `gate_up` and `down` are [experts, out, in]: first those
    that it chooses among, then those that every token goes through.
    """

    input_norm: torch.Tensor  # [hidden]
    qkv: torch.Tensor  # [(heads + 2 * kv_heads) * head_dim, hidden]
    qkv_bias: torch.Tensor | None
    qk_norm: torch.Tensor | None  # [heads + kv_heads, head_dim]
    out: torch.Tensor  # [hidden, heads * head_dim]
    out_bias: torch.Tensor | None
    post_norm: torch.Tensor  # [hidden]
    gate_up: torch.Tensor  # [2 * intermediate, hidden]
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor  # [hidden, intermediate]
    down_bias: torch.Tensor | None
    router: torch.Tensor | None = None  # [experts to choose among, one more if there are others, hidden]


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint, or a rank's part of it, on its device."""

    embedding: torch.Tensor  # [vocab, hidden], whole on every rank
    layers: Iterator[LayerWeights]
    """Each is read when it is asked for, so that a model may lay it out anew before the next one comes."""
    norm: torch.Tensor  # [hidden]
    head: torch.Tensor  # [vocab, hidden], the embedding itself if tied; of a part [vocab / ranks, hidden]


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; raises `ModelError` for a device torch lacks.

    `auto:2` is the third GPU, counted round and round.
    """
    kind, _, number = device.partition(":")
    if kind == "auto":
        gpus = torch.cuda.device_count()
        return torch.device("cuda", int(number or 0) % gpus) if gpus else torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen


def choose_devices(device: str, count: int) -> list[torch.device]:
    """The devices of `count` ranks: `choose_device` and those behind it; a CPU has room for all.

    `auto:2` are the third so many GPUs, counted round and round. Raises `ModelError` if there are fewer.
    """
    kind, _, number = device.partition(":")
    gpus = torch.cuda.device_count()
    if kind == "auto" and gpus:
        groups = gpus // count or 1
        device = f"cuda:{int(number or 0) % groups * count}"
    first = choose_device(device)
    if first.type != "cuda":
        return [first] * count
    index = first.index or 0
    if index + count > gpus:
        raise ModelError(
            f"tensor_parallel = {count} takes GPUs {index} to {index + count - 1}; this machine has {gpus}"
        )
    return [torch.device("cuda", index + rank) for rank in range(count)]


def choose_dtype(dtype: str, config: ModelConfig, device: torch.device) -> torch.dtype:
    """`auto` is the checkpoint's dtype on CUDA; on a CPU bfloat16 if that is it and pays, else float32.

    Raises `ModelError` for a dtype that is not known.
    """
    if dtype != "auto":
        return dtype_named(dtype)
    halved = device.type == "cuda" or (config.dtype == "bfloat16" and bfloat16_pays(config))
    return dtype_named(config.dtype if halved else "float32")


def dtype_named(name: str) -> torch.dtype:
    """One of those that models are computed in; raises `ModelError` for another one."""
    if name not in _DTYPES:
        raise ModelError(f"dtype {name!r} is not supported; choose one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def load_weights(
    folder: Path, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, shard: Shard = WHOLE
) -> Weights:
    """Read the tensors of the checkpoint, converted to `dtype` on `device`; of each only what `shard` has.

    `config` is that of the whole. Raises `ModelError` for a model that cannot be cut like that, and for
    missing, damaged or mis-shaped files and tensors, and so do the `layers`; tensors that the model does not
    need are left alone.
    """
    own = shard.config(config)
    source = _Source(folder, dtype, device, shard, config.blocks)
    hidden, vocab = config.hidden_size, config.vocab_size
    embedding = source.get("model.embed_tokens.weight", vocab, hidden)
    own_head = embedding[shard.part(vocab)]
    if not config.tied:
        own_head = source.get("lm_head.weight", vocab, hidden, cut=0)
    return Weights(
        embedding=embedding,
        layers=(_load_layer(source, config, own, i) for i in range(config.layers)),
        norm=source.get("model.norm.weight", hidden),
        head=_filled(own_head, shard.most(vocab)),
    )


def _filled(rows: torch.Tensor, count: int) -> torch.Tensor:
    """`count` rows, of zeros where there are fewer: all ranks' heads are alike."""
    return rows if len(rows) == count else pad(rows, (0, 0, 0, count - len(rows)))


def _load_layer(source: _Source, config: ModelConfig, own: ModelConfig, index: int) -> LayerWeights:
    """The part `own` of a layer of `config`. What the ranks' parts add up to gets its bias from the first."""
    prefix = f"model.layers.{index}."
    hidden, inner, width = config.hidden_size, config.intermediate_size, config.heads * config.head_dim
    kv_width = config.kv_heads * config.head_dim
    first = source.shard.rank == 0
    attention, mlp = prefix + "self_attn.", prefix + "mlp."
    qkv = {attention + "q_proj": width, attention + "k_proj": kv_width, attention + "v_proj": kv_width}
    experts = config.experts if config.experts and index in config.experts.layers else None
    dense, router = {mlp + "gate_proj": inner, mlp + "up_proj": inner}, None
    if experts is not None:
        router, gate_up, down = _load_experts(source, config, experts, prefix)
    else:
        gate_up = source.merged(dense, hidden)
        down = source.get(mlp + "down_proj.weight", hidden, inner, cut=1)
    return LayerWeights(
        input_norm=source.get(prefix + "input_layernorm.weight", hidden),
        qkv=source.merged(qkv, hidden),
        qkv_bias=source.merged_bias(qkv) if config.qkv_bias else None,
        qk_norm=_load_qk_norm(source, own, attention) if config.qk_norm else None,
        out=source.get(attention + "o_proj.weight", hidden, width, cut=1),
        out_bias=source.get(attention + "o_proj.bias", hidden) if config.out_bias and first else None,
        post_norm=source.get(prefix + "post_attention_layernorm.weight", hidden),
        gate_up=gate_up,
        gate_up_bias=source.merged_bias(dense) if config.mlp_bias else None,
        down=down,
        down_bias=source.get(mlp + "down_proj.bias", hidden) if config.mlp_bias and first else None,
        router=router,
    )


def _load_experts(
    source: _Source, config: ModelConfig, experts: Experts, prefix: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer's router, and of its experts `gate_up` and `down`: of each that part of its inner width."""
    hidden, inner = config.hidden_size, experts.intermediate_size
    at, gate, up, down = prefix + "mlp.", "gate_proj", "up_proj", "down_proj"
    if config.family == "mixtral":
        at, gate, up, down = prefix + "block_sparse_moe.", "w1", "w3", "w2"
    router = source.get(at + "gate.weight", experts.count, hidden)
    into, out = [], []
    for expert in range(experts.count):
        name = f"{at}experts.{expert}."
        into.append(source.merged({name + gate: inner, name + up: inner}, hidden))
        out.append(source.get(f"{name}{down}.weight", hidden, inner, cut=1))
    if experts.shared:
        name, wide = at + "shared_expert.", experts.shared * inner
        router = torch.cat([router, source.get(at + "shared_expert_gate.weight", 1, hidden)])
        gate_up = source.merged({name + gate: wide, name + up: wide}, hidden)
        into += gate_up.view(2, experts.shared, -1, hidden).transpose(0, 1).flatten(1, 2)
        whole = source.get(f"{name}{down}.weight", hidden, wide, cut=1)
        out += whole.view(hidden, experts.shared, -1).unbind(1)
    return router, torch.stack(into), torch.stack(out)


def _load_qk_norm(source: _Source, own: ModelConfig, attention: str) -> torch.Tensor:
    """The two norms' weights, one row a head, so that queries and keys are normalized in one call."""
    q = source.get(attention + "q_norm.weight", own.head_dim).expand(own.heads, -1)
    k = source.get(attention + "k_norm.weight", own.head_dim).expand(own.kv_heads, -1)
    return torch.cat([q, k])


class _Source:
    """The tensors of a checkpoint's safetensors files, by name."""

    def __init__(
        self, folder: Path, dtype: torch.dtype, device: torch.device, shard: Shard, blocks: Blocks | None
    ) -> None:
        self.folder = folder
        self.dtype = dtype
        self.device = device
        self.shard = shard
        self.blocks = blocks
        self.files: dict[str, Any] = {}  # open safetensors files by the tensors they hold
        for path in _tensor_files(folder):
            with _reading(path):
                file: Any = safe_open(path, framework="pt", device=str(device))  # its methods have no types
                self.files.update(dict.fromkeys(file.keys(), file))

    def get(self, name: str, *shape: int, cut: int | None = None) -> torch.Tensor:
        """The tensor `name`, which must have `shape`; along the dimension `cut` only the shard's part."""
        file = self.files.get(name)
        if file is None:
            raise ModelError(f"checkpoint {str(self.folder)!r} lacks the tensor {name!r}")
        with _reading(self.folder):
            found = file.get_slice(name)
            if found.get_shape() != list(shape):
                raise ModelError(
                    f"tensor {name!r} of {str(self.folder)!r} has shape {found.get_shape()}; "
                    f"config.json asks for {list(shape)}"
                )
            whole = cut is None or self.shard.size == 1
            quantized = found.get_dtype() == _FP8
            tensor: torch.Tensor = file.get_tensor(name) if whole or quantized else found
        if quantized:
            tensor = self._dequantized(name, tensor)
        if cut is not None and not whole:
            part = self.shard.part(shape[cut])
            tensor = tensor[part] if cut == 0 else tensor[:, part]
        return tensor.to(dtype=self.dtype).contiguous()  # a part of every row is cut from all of the tensor

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

    def merged(self, parts: dict[str, int], width: int) -> torch.Tensor:
        """The matrices of several projections of one input, as one; of each the shard's rows."""
        return torch.cat([self.get(f"{name}.weight", rows, width, cut=0) for name, rows in parts.items()])

    def merged_bias(self, parts: dict[str, int]) -> torch.Tensor:
        """The biases that belong to `merged`."""
        return torch.cat([self.get(f"{name}.bias", rows, cut=0) for name, rows in parts.items()])


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
