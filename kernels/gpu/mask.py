"""Token masks: only forbidden tokens are written."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["apply_token_mask"]

_WORDS = 128  # of 32 tokens, a program


def apply_token_mask(logits: torch.Tensor, mask: torch.Tensor) -> None:
    """See `weft.kernels.mask.apply_token_mask`."""
    rows, vocab = logits.shape
    _mask[(rows, triton.cdiv(mask.shape[1], _WORDS))](
        logits, mask, vocab, logits.stride(0), mask.stride(0), WORDS=_WORDS, num_warps=4
    )


@triton.jit
def _mask(logits, mask, vocab, logit_stride, mask_stride, WORDS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    bits = tl.load(mask + row * mask_stride + word, mask=word < mask_stride, other=-1)
    if tl.min(bits, 0) == -1 and tl.max(bits, 0) == -1:
        return
    bit = tl.arange(0, 32)
    token = word[:, None] * 32 + bit[None, :]
    forbidden = ((bits[:, None] >> bit[None, :]) & 1) == 0
    minus = tl.full([WORDS, 32], float("-inf"), tl.float32)
    tl.store(logits + row * logit_stride + token, minus, mask=forbidden & (token < vocab))
