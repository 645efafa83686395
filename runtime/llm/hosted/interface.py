"""What stands behind transformers' attention interface while weft runs a model's code.

The code calls one function a layer (https://huggingface.co/docs/transformers/attention_interface). Two are
registered: one that attends to a paged pool, and one that observes what the code asks for, see `probe.py`.
Whom a call belongs to, the caller's context says, so that models on several threads do not meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

import torch

__all__ = ["PAGED", "PROBE", "Attend", "Call", "LayerShape", "Turns", "Watch", "register", "serving"]

PAGED: Final = "weft_paged"
"""The attention that `Turns` gives; transformers makes no masks for it."""
PROBE: Final = "weft_probe"
"""The attention that a `Watch` gives; it makes the masks, too."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer asks for."""

    index: int  # in the order of a forward pass
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int  # at most `key_dim`
    scale: float
    window: int | None  # tokens that a query sees, itself included; None: all before it
    softcap: float | None


class Attend(Protocol):
    """Attention over a paged pool."""

    def __call__(self, layer: LayerShape, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Store keys [tokens, kv_heads, key_dim] and values; attend queries [tokens, heads, key_dim].

        Returns [tokens, heads, value_dim].
        """


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the attention function that a forward pass makes."""

    module: torch.nn.Module
    layer: LayerShape


class Watch(Protocol):
    """Whoever observes a forward pass."""

    def mask(self, **asked: Any) -> torch.Tensor:
        """The mask that the code asks for, as `transformers.masking_utils` does."""

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **asked: Any,
    ) -> torch.Tensor:
        """The output [batch, tokens, heads, value_dim] of queries [batch, heads, tokens, key_dim]."""


class Turns:
    """One forward pass: its calls come in the order that was observed, each from its module."""

    def __init__(self, calls: Sequence[Call], attend: Attend) -> None:
        self._calls = iter(calls)
        self._attend = attend

    def attend(
        self, module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Attend for the module whose turn it is; tensors are laid out as in `Watch.attend`, batch 1."""
        call = next(self._calls, None)
        if call is None or call.module is not module:
            raise RuntimeError("the model's code calls its attention layers in another order than before")
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        return self._attend(call.layer, q, k, v)[None]


_serving: ContextVar[Turns | Watch] = ContextVar("weft_attention")


@contextmanager
def serving(whom: Turns | Watch) -> Iterator[None]:
    """Give attention to the forward pass that this thread runs inside."""
    token = _serving.set(whom)
    try:
        yield
    finally:
        _serving.reset(token)


@cache
def register() -> None:
    """Enter both functions, and the masks of the observed one, into transformers' tables."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PAGED, _paged)
    AttentionInterface.register(PROBE, _observed)
    AttentionMaskInterface.register(PROBE, _mask)


def _paged(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **asked: Any,
) -> tuple[torch.Tensor, None]:
    """What else is asked for is what the probe has seen."""
    turns = _serving.get()
    assert isinstance(turns, Turns)
    return turns.attend(module, query, key, value), None


def _observed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **asked: Any,
) -> tuple[torch.Tensor, None]:
    watch = _serving.get()
    assert not isinstance(watch, Turns)
    return watch.attend(module, query, key, value, attention_mask, **asked), None


def _mask(*args: Any, **asked: Any) -> torch.Tensor:
    watch = _serving.get()
    assert not isinstance(watch, Turns)
    return watch.mask(*args, **asked)
