"""The reference model, computed for some tokens of a prompt over KV that comes from anywhere.

Keys are kept unrotated, each with the position that it is rotated to when it is read. So KV that was computed
alone can be put at another place, with the right positions or with those that it had.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.apps.reference_model.training.network import Block, Network, Shape

__all__ = ["States", "compute"]


@dataclass(frozen=True, slots=True)
class States:
    """The KV of a prompt; what was not computed yet is zero."""

    keys: Tensor
    """(layers, KV heads, tokens, head), before rotation."""
    values: Tensor
    """(layers, KV heads, tokens, head)."""
    rotary: Tensor
    """(tokens,): the position to which a key is rotated."""

    @classmethod
    def blank(cls, shape: Shape, tokens: int) -> States:
        """Room for so many tokens, at the positions of their order."""
        size = (shape.layers, shape.kv_heads, tokens, shape.head)
        return cls(torch.zeros(size), torch.zeros(size), torch.arange(tokens))

    def copy(self, tokens: int) -> States:
        """The first so many tokens, to be written to."""
        return States(
            self.keys[:, :, :tokens].clone(), self.values[:, :, :tokens].clone(), self.rotary[:tokens].clone()
        )


@torch.no_grad()
def compute(
    network: Network, tokens: Tensor, rows: Tensor, states: States, layers: int | None = None
) -> Tensor:
    """Hidden states (rows, width) of the tokens at `rows` (ascending); their KV is written to `states`.

    A row sees every token up to itself, by its KV in `states`. With `layers`, only so many are computed.
    """
    shape = network.shape
    states.rotary[rows] = rows
    x = F.embedding(tokens[rows], network.embedding)
    seen = torch.arange(len(tokens))[None, :] <= rows[:, None]
    for index, block in enumerate(list(network.blocks)[:layers]):
        assert isinstance(block, Block)
        y = F.rms_norm(x, (shape.width,), block.norm1, 1e-5)
        heads = block.qkv(y).view(len(rows), -1, shape.head).transpose(0, 1)
        q, k, v = heads.split((shape.heads, shape.kv_heads, shape.kv_heads))
        states.keys[index][:, rows], states.values[index][:, rows] = k, v
        keys = _rotate(network, states.keys[index], states.rotary)
        attended = F.scaled_dot_product_attention(
            _rotate(network, q, rows)[None],
            keys[None],
            states.values[index][None],
            attn_mask=seen,
            enable_gqa=True,
        )[0]
        x = x + block.out(attended.transpose(0, 1).reshape(len(rows), shape.width))
        y = F.rms_norm(x, (shape.width,), block.norm2, 1e-5)
        gate, up = block.up(y).chunk(2, dim=-1)
        x = x + block.down(F.silu(gate) * up)
    return F.rms_norm(x, (shape.width,), network.norm, 1e-5)


def _rotate(network: Network, x: Tensor, positions: Tensor) -> Tensor:
    cos, sin = network.cos[positions], network.sin[positions]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
