"""Masks of allowed tokens, as grammars give them."""

from __future__ import annotations

import torch

from .dispatch import kernel

__all__ = ["apply_token_mask"]


@kernel
def apply_token_mask(logits: torch.Tensor, mask: torch.Tensor) -> None:
    """Set the logits [rows, vocab] of all tokens that `mask` forbids to -inf, in place.

    `mask` is int32 [rows, ceil(vocab / 32)], as xgrammar writes it: bit i of word w allows token 32 w + i.
    A row of -1 allows everything.
    """
    token = torch.arange(logits.shape[1], device=logits.device)
    allowed = (mask[:, token // 32] >> (token % 32)) & 1
    logits.masked_fill_(allowed == 0, -torch.inf)
