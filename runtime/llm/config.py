"""What a checkpoint says about its model: Hugging Face's `config.json`, old and new layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import ModelError
from .packing import Packing, read_packing
from .quantization import Blocks, Quantization, read_blocks

__all__ = [
    "SUPPORTED",
    "Experts",
    "ModelConfig",
    "ModelShape",
    "RopeConfig",
    "VariantError",
    "family_of",
    "read_config",
    "read_eos_ids",
    "read_json",
]

SUPPORTED = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "MixtralForCausalLM": "mixtral",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
"""Architectures that weft computes with code of its own, and the family of each."""

T = TypeVar("T")

_ROPE_KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base frequency and how it is scaled beyond the trained context."""

    theta: float
    kind: str = "default"  # one of _ROPE_KINDS
    factor: float = 1.0
    original_context: int = 0  # tokens; llama3 and yarn
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn
    attention_factor: float | None = None  # yarn; None: from `factor`


class VariantError(ModelError):
    """A checkpoint of a family that weft computes, in a variant that it does not."""


@dataclass(frozen=True, slots=True)
class Experts:
    """The feed-forward layers of a mixture of experts."""

    layers: frozenset[int]  # that are such; the others are dense
    count: int
    chosen: int  # for each token
    intermediate_size: int  # of each
    normalized: bool  # whether the weights of those chosen are made to sum up to 1
    shared: int = 0
    """Experts that every token goes through besides: a layer that is wider than one, cut into so many."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What an engine must know of a decoder-only transformer, whoever's code computes it."""

    family: str
    vocab_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context_length: int  # tokens
    eos_ids: frozenset[int]

    @property
    def group(self) -> int:
        """The number of query heads that share a KV head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True)
class ModelConfig(ModelShape):
    """All that there is to know of a decoder-only transformer, except its weights."""

    hidden_size: int
    intermediate_size: int
    norm_eps: float
    rope: RopeConfig
    windows: tuple[int | None, ...]  # [layers]: sliding window in tokens, None where attention is full
    qkv_bias: bool
    out_bias: bool  # of the attention's output projection
    mlp_bias: bool
    qk_norm: bool
    tied: bool  # whether the LM head is the embedding
    dtype: str  # the checkpoint's, as torch names it
    blocks: Blocks | None = None  # how its matrices are given back, if they are in 8 bits
    packing: Packing | None = None  # how they are stored, if in 4 bits
    experts: Experts | None = None  # None: all layers are dense

    @property
    def has_dense_layers(self) -> bool:
        """Whether some layer has no experts."""
        return self.experts is None or len(self.experts.layers) < self.layers

    @property
    def published(self) -> Quantization:
        """How the checkpoint has its matrices, as far as they can be kept: those of experts not in 4 bits."""
        if self.packing and self.experts is None:
            return "int4"
        return "fp8" if self.blocks else "none"


def read_config(folder: Path) -> ModelConfig:
    """Read `config.json` and, where present, `generation_config.json`; raises `ModelError`.

    It is a `VariantError` if only a variant of a supported family stands in the way.
    """
    return _Reader(read_json(folder / "config.json"), str(folder)).config(read_eos_ids(folder))


def family_of(raw: Mapping[str, Any]) -> str | None:
    """The family of a `config.json`, by its first architecture, else by its model type; None: another's."""
    names = raw.get("architectures")
    family = SUPPORTED.get(names[0]) if names else raw.get("model_type")
    return family if family in SUPPORTED.values() else None


def read_eos_ids(folder: Path) -> frozenset[int]:
    """The ends of sequence that a checkpoint's configurations name; raises `ModelError`."""
    eos = _token_ids(read_json(folder / "config.json").get("eos_token_id"))
    generation = folder / "generation_config.json"
    return eos | _token_ids(read_json(generation).get("eos_token_id")) if generation.is_file() else eos


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a checkpoint's folder; raises `ModelError`."""
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{str(path.parent)!r} holds no {path.name}: is it a checkpoint folder?") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelError(f"{str(path)!r} holds {type(parsed).__name__}, not a JSON object")
    return parsed


def _token_ids(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)


class _Reader:
    """Fields of one config.json, with the defaults of its family."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where
        self.family = self._family()

    def config(self, eos_ids: frozenset[int]) -> ModelConfig:
        raw, family = self.raw, self.family
        self._refuse_variants()
        heads = self._integer("num_attention_heads")
        hidden = self._integer("hidden_size")
        layers = self._integer("num_hidden_layers")
        kv_heads = self._integer("num_key_value_heads", 8 if family in ("mistral", "mixtral") else heads)
        if heads % kv_heads:
            raise self._error(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
        attention_bias = bool(raw.get("attention_bias", False)) and family in ("llama", "qwen3", "qwen3_moe")
        rope = self._rope()
        packing = self._said(read_packing)
        return ModelConfig(
            family=family,
            vocab_size=self._integer("vocab_size"),
            hidden_size=hidden,
            intermediate_size=self._integer("intermediate_size"),
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=self._integer("head_dim", 128 if family == "qwen3" else hidden // heads),
            norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            context_length=self._context(rope),
            rope=rope,
            windows=self._windows(layers),
            qkv_bias=attention_bias or (family in ("qwen2", "qwen2_moe") and bool(raw.get("qkv_bias", True))),
            out_bias=attention_bias,
            mlp_bias=bool(raw.get("mlp_bias", False)) and family == "llama",
            qk_norm=family in ("qwen3", "qwen3_moe"),
            tied=bool(raw.get("tie_word_embeddings", False)),
            eos_ids=eos_ids,
            packing=packing,
            blocks=None if packing else self._said(read_blocks),
            experts=self._experts(layers),
            dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch."),
        )

    def _family(self) -> str:
        family = family_of(self.raw)
        if family is None:
            names = self.raw.get("architectures")
            name = names[0] if names else f"model type {self.raw.get('model_type')!r}"
            raise self._error(f"architecture {name} is none of weft's own, which are {', '.join(SUPPORTED)}")
        return family

    def _refuse_variants(self) -> None:
        activation = self.raw.get("hidden_act", "silu")
        if activation != "silu":
            raise self._variant(f"hidden_act {activation!r} is not supported, only 'silu'")

    def _said(self, read: Callable[[Mapping[str, Any]], T]) -> T:
        """What `read` finds of the quantization."""
        try:
            return read(self.raw)
        except ModelError as error:
            raise self._error(str(error)) from None

    def _experts(self, layers: int) -> Experts | None:
        """All of Mixtral's layers have some; of Qwen's each `decoder_sparse_step`-th, but for some named."""
        raw = self.raw
        if self.family not in ("mixtral", "qwen2_moe", "qwen3_moe"):
            return None
        mixtral = self.family == "mixtral"
        step = self._integer("decoder_sparse_step", 1)
        dense = raw.get("mlp_only_layers") or ()
        count = self._integer("num_local_experts" if "num_local_experts" in raw else "num_experts")
        chosen = self._integer("num_experts_per_tok")
        if chosen > count:
            raise self._error(f"num_experts_per_tok {chosen} is more than its {count} experts")
        inner = self._integer("intermediate_size" if mixtral else "moe_intermediate_size")
        shared, rest = 0, 0
        if self.family == "qwen2_moe":
            shared, rest = divmod(self._integer("shared_expert_intermediate_size"), inner)
        if rest:
            raise self._variant("a shared expert is supported only if it is as wide as some of the others")
        return Experts(
            layers=frozenset(
                at for at in range(layers) if mixtral or ((at + 1) % step == 0 and at not in dense)
            ),
            count=count,
            chosen=chosen,
            intermediate_size=inner,
            normalized=mixtral or bool(raw.get("norm_topk_prob", False)),
            shared=shared,
        )

    def _windows(self, layers: int) -> tuple[int | None, ...]:
        """Mistral and Mixtral slide in every layer, Qwen if at all, Llama never.

        Qwen2 and Qwen3 slide from `max_window_layers` on, Qwen3-MoE everywhere.
        """
        window = self.raw.get("sliding_window")
        if self.family in ("mistral", "mixtral"):
            return (window,) * layers
        if self.family == "llama" or not self.raw.get("use_sliding_window", False):
            return (None,) * layers
        if self.family == "qwen3_moe":
            return (window,) * layers
        types = self.raw.get("layer_types")
        if types is None and self.family == "qwen2_moe":
            raise self._variant("use_sliding_window is supported only with layer_types")
        if types is None:
            first = self._integer("max_window_layers", 28)
            return tuple(window if layer >= first else None for layer in range(layers))
        if len(types) != layers:
            raise self._error(f"layer_types names {len(types)} layers of {layers}")
        return tuple(window if kind == "sliding_attention" else None for kind in types)

    def _context(self, rope: RopeConfig) -> int:
        default = {"llama": 2048, "mistral": 131072, "mixtral": 131072}.get(self.family, 32768)
        context = self._integer("max_position_embeddings", default)
        return max(context, int(rope.original_context * rope.factor)) if rope.kind == "yarn" else context

    def _rope(self) -> RopeConfig:
        """From `rope_parameters` (transformers 5), else from `rope_theta` and `rope_scaling`."""
        raw = self.raw
        fields = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
        kind = fields.get("rope_type", fields.get("type", "default"))
        if kind not in _ROPE_KINDS:
            raise self._variant(
                f"rope scaling {kind!r} is not supported; supported are {', '.join(_ROPE_KINDS)}"
            )
        if fields.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
            raise self._variant("partial rotary embedding (partial_rotary_factor) is not supported")
        usual = 1e6 if self.family == "mixtral" else 10000.0
        theta = float(fields.get("rope_theta", raw.get("rope_theta", usual)))
        if kind == "default":
            return RopeConfig(theta)
        try:
            return self._scaled_rope(theta, kind, fields)
        except (KeyError, TypeError) as error:
            raise self._error(f"rope scaling {kind!r} lacks or misstates a field: {error}") from error

    def _scaled_rope(self, theta: float, kind: str, fields: Mapping[str, Any]) -> RopeConfig:
        if fields.get("mscale_all_dim"):
            raise self._variant("yarn with mscale_all_dim is not supported")
        original = fields.get("original_max_position_embeddings") or self._integer("max_position_embeddings")
        return RopeConfig(
            theta,
            kind,
            factor=float(fields["factor"]),
            original_context=int(original),
            low_freq_factor=float(fields["low_freq_factor"]) if kind == "llama3" else 1.0,
            high_freq_factor=float(fields["high_freq_factor"]) if kind == "llama3" else 4.0,
            beta_fast=float(fields.get("beta_fast") or 32.0),
            beta_slow=float(fields.get("beta_slow") or 1.0),
            truncate=bool(fields.get("truncate", True)),
            attention_factor=fields.get("attention_factor"),
        )

    def _integer(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._error(f"{key} must be a positive integer, not {value!r}")
        return value

    def _error(self, what: str) -> ModelError:
        return ModelError(f"config.json of {self.where!r}: {what}")

    def _variant(self, what: str) -> VariantError:
        return VariantError(f"config.json of {self.where!r}: {what}")
