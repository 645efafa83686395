"""Random checkpoints, small enough to be made in a test, and what transformers generates with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["CONTEXT", "EOS", "SMALL", "VOCAB", "Checkpoint", "make"]

VOCAB = 160
CONTEXT = 2048
EOS = [2, *range(10, VOCAB, 18)]

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    model: Any  # of transformers, parts of which have no types
    known: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = field(default_factory=dict)

    def greedy(self, ids: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
        """Greedy tokens of transformers, without the end of sequence; computed once."""
        if (ids, max_tokens) not in self.known:
            self.known[ids, max_tokens] = self._generate(ids, max_tokens)
        return self.known[ids, max_tokens]

    def _generate(self, ids: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
        out = self.model.generate(
            torch.tensor([ids]),
            max_new_tokens=max_tokens,
            do_sample=False,
            attention_mask=torch.ones(1, len(ids)),
        )
        new = out[0, len(ids) :].tolist()
        return tuple(new[:-1] if new[-1] in EOS else new)


def make(
    kind: str, fields: Mapping[str, Any], folder: Path, *, seed: int = 0, attention: str = "sdpa"
) -> Checkpoint:
    """Save a random model of the configuration class `kind`, in float32.

    `attention` is transformers' implementation by which it generates; only `eager` knows all that models do.
    """
    config = getattr(transformers, kind)(**{**SMALL, **fields})
    torch.manual_seed(seed)
    models: Any = transformers.AutoModelForCausalLM
    model = models.from_config(config, attn_implementation=attention).float().eval()
    for name, parameter in model.named_parameters():  # norms and biases too, which start as ones and zeros
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 0.5, std=0.3)
    model.save_pretrained(folder)
    return Checkpoint(folder, model)
