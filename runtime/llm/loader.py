"""Loading of Hugging Face checkpoints: their tensors, merged for the fused path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch.nn.functional import pad

from weft.kernels.int4 import Int4Matrix

from .config import Experts, ModelConfig
from .cpu.bfloat16 import bfloat16_pays
from .errors import ModelError
from .parallel.shard import WHOLE, Shard
from .source import Matrix, Source

__all__ = [
    "LayerWeights",
    "Weights",
    "choose_device",
    "choose_devices",
    "choose_dtype",
    "dtype_named",
    "load_int4_weights",
    "load_weights",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

M_co = TypeVar("M_co", bound=Matrix, covariant=True)


@dataclass(frozen=True, slots=True)
class LayerWeights(Generic[M_co]):
    """One decoder layer, or a rank's part of it, which has fewer heads and a smaller intermediate width.

    Matrices are [out, in], and of the type that the model is loaded for. Where there is a router, `gate_up`
    and `down` are [experts, out, in]: first those that it chooses among, then those that every token goes
    through.
    """

    input_norm: torch.Tensor  # [hidden]
    qkv: M_co  # [(heads + 2 * kv_heads) * head_dim, hidden]
    qkv_bias: torch.Tensor | None
    qk_norm: torch.Tensor | None  # [heads + kv_heads, head_dim]
    out: M_co  # [hidden, heads * head_dim]
    out_bias: torch.Tensor | None
    post_norm: torch.Tensor  # [hidden]
    gate_up: M_co | torch.Tensor  # [2 * intermediate, hidden]
    gate_up_bias: torch.Tensor | None
    down: M_co | torch.Tensor  # [hidden, intermediate]
    down_bias: torch.Tensor | None
    router: torch.Tensor | None = None  # [experts to choose among, one more if there are others, hidden]

    @property
    def int4(self) -> bool:
        """Whether it has matrices in 4 bits."""
        return any(isinstance(each, Int4Matrix) for each in (self.qkv, self.out, self.gate_up, self.down))


@dataclass(frozen=True, slots=True)
class Weights(Generic[M_co]):
    """A checkpoint, or a rank's part of it, on its device."""

    embedding: torch.Tensor  # [vocab, hidden], whole on every rank
    layers: Iterator[LayerWeights[M_co]]
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
) -> Weights[torch.Tensor]:
    """Read the tensors of the checkpoint, converted to `dtype` on `device`; of each only what `shard` has.

    `config` is that of the whole. Raises `ModelError` for a model that cannot be cut like that, and for
    missing, damaged or mis-shaped files and tensors, and so do the `layers`; tensors that the model does not
    need are left alone.
    """
    source = Source(folder, dtype, device, shard, config)
    return _load(source, config, source.merged)


def load_int4_weights(
    folder: Path, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, shard: Shard = WHOLE
) -> Weights[Matrix]:
    """The same with the layers' matrices in 4 bits: those that the checkpoint has so, if any, else all.

    Raises `ModelError` as `load_weights` does, and for groups that there are no products for.
    """
    source = Source(folder, dtype, device, shard, config)
    return _load(source, config, source.packed if config.packing else source.rounded)


Read = Callable[[Mapping[str, int], int, int], M_co]
"""How several matrices of one input are read as one: their names and rows, their columns, and the dimension
along which a shard has a part of them."""


def _load(source: Source, config: ModelConfig, read: Read[M_co]) -> Weights[M_co]:
    own, shard = source.shard.config(config), source.shard
    hidden, vocab = config.hidden_size, config.vocab_size
    embedding = source.get("model.embed_tokens.weight", vocab, hidden)
    own_head = embedding[shard.part(vocab)]
    if not config.tied:
        own_head = source.get("lm_head.weight", vocab, hidden, cut=0)
    return Weights(
        embedding=embedding,
        layers=(_load_layer(source, config, own, i, read) for i in range(config.layers)),
        norm=source.get("model.norm.weight", hidden),
        head=_filled(own_head, shard.most(vocab)),
    )


def _filled(rows: torch.Tensor, count: int) -> torch.Tensor:
    """`count` rows, of zeros where there are fewer: all ranks' heads are alike."""
    return rows if len(rows) == count else pad(rows, (0, 0, 0, count - len(rows)))


def _load_layer(
    source: Source, config: ModelConfig, own: ModelConfig, index: int, read: Read[M_co]
) -> LayerWeights[M_co]:
    """The part `own` of a layer of `config`. What the ranks' parts add up to gets its bias from the first."""
    prefix = f"model.layers.{index}."
    hidden, inner, width = config.hidden_size, config.intermediate_size, config.heads * config.head_dim
    kv_width = config.kv_heads * config.head_dim
    first = source.shard.rank == 0
    attention, mlp = prefix + "self_attn.", prefix + "mlp."
    qkv = {attention + "q_proj": width, attention + "k_proj": kv_width, attention + "v_proj": kv_width}
    experts = config.experts if config.experts and index in config.experts.layers else None
    dense = {mlp + "gate_proj": inner, mlp + "up_proj": inner}
    router: torch.Tensor | None = None
    gate_up: M_co | torch.Tensor
    down: M_co | torch.Tensor
    if experts is not None:
        router, gate_up, down = _load_experts(source, config, experts, prefix)
    else:
        gate_up = read(dense, hidden, 0)
        down = read({mlp + "down_proj": hidden}, inner, 1)
    return LayerWeights(
        input_norm=source.get(prefix + "input_layernorm.weight", hidden),
        qkv=read(qkv, hidden, 0),
        qkv_bias=source.merged_bias(qkv) if config.qkv_bias else None,
        qk_norm=_load_qk_norm(source, own, attention) if config.qk_norm else None,
        out=read({attention + "o_proj": hidden}, width, 1),
        out_bias=source.get(attention + "o_proj.bias", hidden) if config.out_bias and first else None,
        post_norm=source.get(prefix + "post_attention_layernorm.weight", hidden),
        gate_up=gate_up,
        gate_up_bias=source.merged_bias(dense) if config.mlp_bias else None,
        down=down,
        down_bias=source.get(mlp + "down_proj.bias", hidden) if config.mlp_bias and first else None,
        router=router,
    )


def _load_experts(
    source: Source, config: ModelConfig, experts: Experts, prefix: str
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


def _load_qk_norm(source: Source, own: ModelConfig, attention: str) -> torch.Tensor:
    """The two norms' weights, one row a head, so that queries and keys are normalized in one call."""
    q = source.get(attention + "q_norm.weight", own.head_dim).expand(own.heads, -1)
    k = source.get(attention + "k_norm.weight", own.head_dim).expand(own.kv_heads, -1)
    return torch.cat([q, k])
