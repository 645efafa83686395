"""What each attention layer of a model asks for, observed in one forward pass of its own code.

Nothing is taken from the configuration, whose fields mean something else in every family: the numbers of
heads are those of the tensors, and a sliding window is what the layer's mask function lets a query see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention

from weft.kernels.capped import capped_attention

from ..errors import ModelError
from .interface import Call, LayerShape, Watch

__all__ = ["Probe", "RefusedError", "window_of"]

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Whether a query sees a key, by the indices of sequence, head, query and key, all broadcast."""

_OF_NO_CONSEQUENCE: Final = frozenset({"dropout", "position_ids", "sliding_window"})
"""What layers hand to their attention that the mask or the queries and keys contain already."""
_FEATURES: Final = {"s_aux": "attention sinks", "position_bias": "a bias by relative positions"}


class RefusedError(ModelError):
    """The model's code needs what the paged attention has not; says what."""


class Probe(Watch):
    """Attends densely, as the code's own attention does, and notes what was asked for."""

    def __init__(self, context_length: int) -> None:
        """`context_length`: positions, for which windows are to be known."""
        self.calls: list[Call] = []
        self._context = context_length
        self._masks: list[tuple[torch.Tensor, MaskFunction]] = []
        self._windows: dict[MaskFunction, int | None] = {}

    def mask(self, *args: Any, **asked: Any) -> torch.Tensor:
        """See `Watch.mask`; raises `RefusedError`."""
        from transformers.masking_utils import eager_mask

        mask: torch.Tensor = eager_mask(*args, **asked)
        self._masks.append((mask, asked["mask_function"]))
        return mask

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        **asked: Any,
    ) -> torch.Tensor:
        """See `Watch.attend`; raises `RefusedError`."""
        self._refuse(asked, is_causal)
        _, heads, _, key_dim = query.shape
        kv_heads, value_dim = value.shape[1], value.shape[3]
        if key.shape[:3] != value.shape[:3] or value_dim > key_dim or heads % kv_heads:
            raise RefusedError(
                f"attention of queries {list(query.shape)} to keys {list(key.shape)} and values "
                f"{list(value.shape)}"
            )
        scale = key_dim**-0.5 if scaling is None else float(scaling)
        window = self._window(attention_mask)
        layer = LayerShape(
            len(self.calls), heads, kv_heads, key_dim, value_dim, scale, window, softcap or None
        )
        self.calls.append(Call(module, layer))
        if layer.softcap is None:
            out = scaled_dot_product_attention(
                query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=heads != kv_heads
            )
        else:
            out = capped_attention(query, key, value, attention_mask, scale=scale, softcap=layer.softcap)
        return out.transpose(1, 2)

    def _refuse(self, asked: dict[str, Any], is_causal: bool | None) -> None:
        if is_causal is False:
            raise RefusedError("attention to later tokens (is_causal=False)")
        for name, given in asked.items():
            if name not in _OF_NO_CONSEQUENCE and given is not None and given is not False:
                raise RefusedError(_FEATURES.get(name, f"the argument {name!r} of its attention"))

    def _window(self, mask: torch.Tensor | None) -> int | None:
        """The sliding window of the mask that a layer was given."""
        if mask is None:
            raise RefusedError("attention without a causal mask")
        known = [function for made, function in self._masks if made is mask]
        known = known or [function for made, function in self._masks if _alike(made, mask)]
        windows = {self._window_of(function, mask.device) for function in known}
        if len(windows) != 1:
            raise RefusedError("an attention mask that its code makes itself, such as ALiBi")
        return windows.pop()

    def _window_of(self, function: MaskFunction, device: torch.device) -> int | None:
        if function not in self._windows:
            self._windows[function] = window_of(function, self._context, device)
        return self._windows[function]


def window_of(visible: MaskFunction, context_length: int, device: torch.device) -> int | None:
    """How many keys a mask function shows to a query, itself included; None: all before it.

    It is asked about queries at either side of where a window, or a chunk, would begin. Raises `RefusedError`
    if what it shows is neither.
    """
    keys = torch.arange(context_length, device=device)

    def seen(query: int) -> torch.Tensor:
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=device)
        shown = visible(zero, zero, zero + query, keys.view(1, 1, 1, -1))
        return shown.expand(1, 1, 1, context_length).flatten()

    last = context_length - 1
    count = int(seen(last).sum())
    window = None if count == context_length else count
    asked = {
        0,
        1,
        count - 1,
        count,
        count + 1,
        2 * count - 1,
        2 * count,
        last // 3,
        last // 2,
        last - 1,
        last,
    }
    for query in sorted(asked & set(range(context_length))):
        expected = (keys <= query) & (keys > query - count)
        if not torch.equal(seen(query), expected):
            raise RefusedError("a pattern of attention that is no sliding window, such as chunks or blocks")
    return window


def _alike(made: torch.Tensor, mask: torch.Tensor) -> bool:
    return made.shape == mask.shape and torch.equal(made == 0, mask == 0) and bool((made <= 0).all())
