"""Loading a checkpoint of any other causal language model of transformers, or saying why it is not served."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from ..config import ModelShape, read_eos_ids, read_json
from ..errors import ModelError
from ..loader import dtype_named
from ..model_base import Model
from .capture import waits_for_device
from .code import HostedCode
from .guard import check
from .model import HostedDeviceModel, HostedModel, pool_shape
from .probe import RefusedError

__all__ = ["load_hosted"]

_log = logging.getLogger(__name__)

_REMEDY: Final = "serve another checkpoint, whose layers are plain causal attention"
_RECURRENT: Final = frozenset(
    {"linear_attention", "mamba", "mamba2", "conv", "recurrent", "moe_mamba", "hybrid"}
)
"""Layer types of configurations that keep a state, which is no list of keys and values."""


def load_hosted(folder: Path, *, dtype: str, device: torch.device) -> Model:
    """A model by the modelling code of transformers, of which nothing but attention is replaced.

    `dtype`: as in a `config.json`; `auto` is the checkpoint's on a GPU, and float32 on a CPU. Raises
    `ModelError`, with the reason, for whatever would not compute what that code computes by itself.
    """
    raw = read_json(folder / "config.json")
    names = raw.get("architectures") or [f"of model type {raw.get('model_type')!r}"]
    who = f"config.json of {str(folder)!r}: architecture {names[0]}"
    with _explained(who):
        config = _read(folder, raw, names[0])
        text = config.get_text_config()
        context = _context_length(text)
        chosen = _dtype(dtype, text, device)
        code = HostedCode(_load(folder, config, names[0], chosen).to(device), context)
        kv_heads, head_dim = pool_shape(code.layers)
        shape = ModelShape(
            family=f"{text.model_type} through transformers",
            vocab_size=code.vocab_size,
            layers=len(code.layers),
            heads=max(layer.heads for layer in code.layers),
            kv_heads=kv_heads,
            head_dim=head_dim,
            context_length=context,
            eos_ids=read_eos_ids(folder),
        )
        model = _model(shape, code, folder.resolve().name, chosen)
        _try(model, code)
    _log.info("%s runs through transformers, in one process", names[0])
    return model


def _model(config: ModelShape, code: HostedCode, name: str, dtype: torch.dtype) -> Model:
    """That of the device on which the code's weights lie."""
    if code.device.type != "cuda":
        return HostedModel(config, code, name=name, dtype=dtype)
    model = HostedDeviceModel(config, code, name=name, dtype=dtype)
    if waits_for_device(model):
        model.capturable = False
        _log.info("the code of %s waits for the device, so that CUDA graphs cannot hold its steps", name)
    return model


def _try(model: Model, code: HostedCode) -> None:
    """Have the trial, and where it fails with CUDA graphs, one without. Raises what the last one raises."""
    if isinstance(model, HostedDeviceModel) and model.capturable:
        try:
            check(model, code)
        except torch.OutOfMemoryError:
            raise  # which says nothing of graphs
        except (RefusedError, RuntimeError) as error:
            model.capturable = False
            _log.warning("CUDA graphs cannot hold the steps of %s: %s", model.name, str(error).split("\n")[0])
        else:
            return
    check(model, code)


@contextmanager
def _explained(who: str) -> Iterator[None]:
    """Say whose problem it is, and what can be done."""
    try:
        yield
    except RefusedError as refusal:
        raise ModelError(f"{who} cannot run through transformers: it has {refusal}; {_REMEDY}") from refusal
    except (ModelError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever somebody else's code raises
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{who} cannot run through transformers, whose code says: {cause[0]}") from error


def _read(folder: Path, raw: Mapping[str, Any], name: str) -> Any:
    """The configuration, as transformers reads it; refuses what is known not to be served."""
    where = f"config.json of {str(folder)!r}"
    try:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError as error:
        raise ModelError(
            f"{where}: architecture {name} is none of weft's own, and transformers, which might run it, "
            f"is not installed: pip install 'weft[transformers]'"
        ) from error
    if raw.get("quantization_config"):
        raise ModelError(
            f"{where}: transformers' code takes no quantized checkpoints here; use the unquantized one"
        )
    if raw.get("is_encoder_decoder"):
        raise RefusedError("an encoder, whose output every token attends to")
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if name not in known:
        code = " (its own code, auto_map, is not run)" if raw.get("auto_map") else ""
        raise ModelError(
            f"{where}: architecture {name} is neither one of weft's own nor a causal language model of the "
            f"installed transformers{code}"
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _refuse_layers(config.get_text_config())
    return config


def _refuse_layers(text: Any) -> None:
    """Refuse, before anything is loaded, what the configuration says of the layers."""
    if getattr(text, "is_encoder_decoder", False):
        raise RefusedError("an encoder, whose output every token attends to")
    if getattr(text, "add_cross_attention", False):
        raise RefusedError("cross-attention")
    alibi = getattr(text, "alibi", False) or getattr(getattr(text, "attn_config", None), "alibi", False)
    if alibi or text.model_type == "bloom":
        raise RefusedError("ALiBi, a bias by distance")
    kinds = {str(kind) for kind in getattr(text, "layer_types", None) or ()}
    kinds |= {str(kind) for kind in getattr(text, "layers_block_type", None) or ()}
    if kinds & _RECURRENT:
        raise RefusedError(f"recurrent layers ({', '.join(sorted(kinds & _RECURRENT))})")


def _context_length(text: Any) -> int:
    """Tokens. Where rotations change with a text's length, which stored keys cannot follow: up to there."""
    context = getattr(text, "max_position_embeddings", None)
    if not isinstance(context, int) or context < 1:
        raise ModelError(f"model type {text.model_type!r} names no context length (max_position_embeddings)")
    most = context
    for rope in _ropes(getattr(text, "rope_parameters", None) or {}):
        if rope.get("rope_type") in ("longrope", "dynamic"):
            most = min(most, int(rope.get("original_max_position_embeddings") or context))
    if most < context:
        _log.warning(
            "the context is %d tokens, not %d: beyond them this model rotates all keys of a text anew",
            most,
            context,
        )
    return most


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rotary parameters of all layers, or of each type of layer."""
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    yield from nested or [parameters]


def _dtype(dtype: str, text: Any, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        return dtype_named(dtype)
    named = str(text.dtype or "float32").removeprefix("torch.")
    return dtype_named(named if device.type == "cuda" else "float32")


def _load(folder: Path, config: Any, name: str, dtype: torch.dtype) -> Any:
    """The model with all its weights; transformers itself would make up those that are missing."""
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    with _without_progress_bars():
        module, info = load(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    lacking = sorted(map(str, info["missing_keys"])) + sorted(map(str, info["mismatched_keys"]))
    if lacking:
        raise ModelError(
            f"checkpoint {str(folder)!r} lacks the tensor {lacking[0]!r} of {name}, or its shape"
        )
    if getattr(module, "_is_stateful", False):
        raise RefusedError("recurrent layers")
    module.config.pad_token_id = None  # nothing is padded; some code looks for it in every input, and waits
    return module.eval().requires_grad_(False)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """They have no place in a worker's log."""
    from transformers.utils import logging

    chatter: Any = logging
    shown = chatter.is_progress_bar_enabled()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            chatter.enable_progress_bar()
