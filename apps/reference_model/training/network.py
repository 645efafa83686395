"""The reference model for training: a small Llama over packed rows, and its export for everybody else.

Positions and groups are given for every token (see `rows`). On a GPU, attention runs through flex_attention;
elsewhere through a dense mask, which is slow but needs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .encoder import BOS, END, PAD, VOCABULARY
from .rows import APART, BRANCHES

__all__ = [
    "Block",
    "Network",
    "Shape",
    "dense_mask",
    "export",
    "load",
    "may_attend",
    "reach",
    "token_losses",
]

POSITIONS: Final = 4096
_EPSILON: Final = 1e-5
_THETA: Final = 10_000.0

MaskFunction = Callable[[Any, Any, Any, Any], Tensor]


@dataclass(frozen=True)
class Shape:
    """How large the network is; the defaults are those of the bundled model."""

    width: int = 256
    layers: int = 8
    heads: int = 8
    kv_heads: int = 4
    hidden: int = 768

    @property
    def head(self) -> int:
        """The width of a head."""
        return self.width // self.heads

    @property
    def kv_width(self) -> int:
        """The width of all keys, and of all values."""
        return self.kv_heads * self.head


class Network(nn.Module):
    """Token embeddings, blocks, and a last norm; the embeddings are also the output layer."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(VOCABULARY, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width))
        half = shape.head // 2
        frequencies = _THETA ** (-torch.arange(half) / half)
        angles = torch.arange(POSITIONS)[:, None] * frequencies[None, :]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialize()

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor | BlockMask) -> Tensor:
        """Hidden states (rows, tokens, width) of tokens (rows, tokens)."""
        x = F.embedding(tokens, self.embedding)
        cos = self.cos[positions][:, None]
        sin = self.sin[positions][:, None]
        device = tokens.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            x, cos, sin = x.to(dtype), cos.to(dtype), sin.to(dtype)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return F.rms_norm(x, (self.shape.width,), self.norm, _EPSILON)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (…, vocabulary) of hidden states (…, width)."""
        return F.linear(hidden, self.embedding)

    def _initialize(self) -> None:
        shape = self.shape
        deep = (2 * shape.layers) ** -0.5
        nn.init.normal_(self.embedding, std=0.02)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.qkv.weight, std=0.5 * shape.width**-0.5)
            nn.init.normal_(block.up.weight, std=0.5 * shape.width**-0.5)
            nn.init.normal_(block.out.weight, std=0.5 * deep * shape.width**-0.5)
            nn.init.normal_(block.down.weight, std=0.5 * deep * shape.hidden**-0.5)


class Block(nn.Module):
    """Attention and a gated feed-forward layer, each after a norm and added to what came in."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.norm1 = nn.Parameter(torch.ones(shape.width))
        self.norm2 = nn.Parameter(torch.ones(shape.width))
        self.qkv = nn.Linear(shape.width, shape.width + 2 * shape.kv_width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.up = nn.Linear(shape.width, 2 * shape.hidden, bias=False)  # gate and up
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | BlockMask) -> Tensor:
        """Of hidden states (rows, tokens, width)."""
        shape = self.shape
        rows, size, _ = x.shape
        y = F.rms_norm(x, (shape.width,), self.norm1, _EPSILON)
        heads = self.qkv(y).view(rows, size, -1, shape.head).transpose(1, 2)
        q, k, v = heads.split((shape.heads, shape.kv_heads, shape.kv_heads), dim=1)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if isinstance(mask, Tensor):
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        else:
            attended = flex_attention(q, k.contiguous(), v.contiguous(), block_mask=mask, enable_gqa=True)
            assert isinstance(attended, Tensor)
            y = attended
        x = x + self.out(y.transpose(1, 2).reshape(rows, size, shape.width))
        y = F.rms_norm(x, (shape.width,), self.norm2, _EPSILON)
        gate, up = self.up(y).chunk(2, dim=-1)
        written: Tensor = self.down(F.silu(gate) * up)
        return x + written


def reach(groups: Tensor) -> Tensor:
    """How far each token of (rows, tokens) is seen: (3, rows, tokens), int32, of places in the row.

    A token is seen before the first place, and again from the second one up to the third. One that all
    branches share is seen to the end of its sample, one of a branch to the end of that branch, and one of a
    passage read apart to the end of the passage and then by the branches.
    """
    size = groups.shape[1]
    places = torch.arange(size, device=groups.device).expand_as(groups)
    samples, branches = groups // BRANCHES, groups % BRANCHES
    own, all_own = _run_ends(groups, places), _run_ends(samples, places)
    apart = branches >= APART
    until = torch.where(branches == 0, all_own, own)
    again = _next(places, (branches > 0) & ~apart)
    again = torch.where(apart, again, size)
    return torch.stack((until, again, all_own)).int()


def may_attend(seen: Tensor) -> MaskFunction:
    """Which tokens a token sees: earlier ones of its own branch, and of the parts that branches share.

    `seen` is what `reach` returns: two comparisons of places cost attention less than comparing groups does.
    """
    until, again, end = seen.unbind()

    def mask(row: Any, _head: Any, query: Any, key: Any) -> Tensor:
        later = (query >= again[row, key]) & (query < end[row, key])
        allowed: Tensor = (key <= query) & ((query < until[row, key]) | later)
        return allowed

    return mask


def dense_mask(groups: Tensor) -> Tensor:
    """The same, of groups, as a (rows, 1, tokens, tokens) mask."""
    size = groups.shape[1]
    index = torch.arange(size, device=groups.device)
    rows = torch.arange(groups.shape[0], device=groups.device)[:, None, None, None]
    return may_attend(reach(groups))(rows, None, index[:, None], index[None, :])


def _run_ends(values: Tensor, places: Tensor) -> Tensor:
    """For each place the one after the last of its run of equal values."""
    last = torch.ones_like(values, dtype=torch.bool)
    last[:, :-1] = values[:, 1:] != values[:, :-1]
    return _next(places, last) + 1


def _next(places: Tensor, wanted: Tensor) -> Tensor:
    """For each place the first from it on that is wanted; as many as there are places if there is none."""
    found = torch.where(wanted, places, places.shape[1])
    return found.flip(1).cummin(1).values.flip(1)


def token_losses(hidden: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of every target (tokens,) after hidden states (tokens, width)."""
    return F.cross_entropy(F.linear(hidden, embedding).float(), targets, reduction="none")


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


# ---- export


def export(network: Network, folder: Path) -> None:
    """Write the network as transformers expects it, in bfloat16; the tokenizer is there already."""
    shape = network.shape
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: t.detach().to("cpu", torch.bfloat16).contiguous() for name, t in _named(network)}
    weights = folder / "model.safetensors"
    save_file(state, weights, {"format": "pt"})
    weights.chmod(0o644)
    _write(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": shape.width,
            "intermediate_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head,
            "hidden_act": "silu",
            "max_position_embeddings": POSITIONS,
            "rms_norm_eps": _EPSILON,
            "rope_theta": _THETA,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": _THETA},
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "use_cache": True,
            "initializer_range": 0.02,
            "bos_token_id": BOS,
            "eos_token_id": END,
            "pad_token_id": PAD,
            "dtype": "bfloat16",
            "torch_dtype": "bfloat16",
        },
    )
    _write(
        folder / "generation_config.json",
        {
            "bos_token_id": BOS,
            "eos_token_id": END,
            "pad_token_id": PAD,
            "do_sample": False,
            "max_new_tokens": 128,
        },
    )


@torch.no_grad()
def load(folder: Path) -> Network:
    """A network that `export` wrote, in float32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = Network(
        Shape(
            config["hidden_size"],
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["intermediate_size"],
        )
    )
    weights = load_file(folder / "model.safetensors")
    for name, parameter in _named(network):
        parameter.copy_(weights[name])
    return network


def _named(network: Network) -> list[tuple[str, Tensor]]:
    shape = network.shape
    named: list[tuple[str, Tensor]] = [
        ("model.embed_tokens.weight", network.embedding),
        ("model.norm.weight", network.norm),
    ]
    for index, block in enumerate(network.blocks):
        assert isinstance(block, Block)
        q, k, v = torch.split(block.qkv.weight, [shape.width, shape.kv_width, shape.kv_width])
        gate, up = block.up.weight.chunk(2)
        parts = {
            "input_layernorm": block.norm1,
            "post_attention_layernorm": block.norm2,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.down.weight,
        }
        named += [(f"model.layers.{index}.{name}.weight", tensor) for name, tensor in parts.items()]
    return named


def _write(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
