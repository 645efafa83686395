"""Which part of a model each of several processes has. Pure.

Attention is cut by heads, the feed-forward layers, or each of their experts, by their inner width, so that
each rank computes a summand of what a layer adds to the residual stream (Shoeybi et al., "Megatron-LM", 2019,
section 3). The LM head is cut by tokens of the vocabulary. The embedding, the norms and the routers are whole
on every rank: to look rows up costs nothing, and a sum over all ranks would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config import ModelConfig
from ..errors import ModelError

__all__ = ["WHOLE", "Shard"]


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of rank `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def config(self, whole: ModelConfig) -> ModelConfig:
        """The shape of the part: its heads and its inner width, but the whole vocabulary.

        Raises `ModelError` if the model cannot be cut into so many parts.
        """
        experts = whole.experts
        inner = 0 if experts is None else experts.intermediate_size
        counts = {"num_attention_heads": whole.heads, "num_key_value_heads": whole.kv_heads}
        if whole.has_dense_layers:
            counts["intermediate_size"] = whole.intermediate_size
        if experts is not None:
            counts["inner width of experts"] = inner
        uneven = [f"{name} {count}" for name, count in counts.items() if count % self.size]
        if uneven:
            raise ModelError(
                f"tensor_parallel = {self.size} does not divide this model's {', '.join(uneven)}; "
                f"it must be a common divisor of its heads, KV heads and inner width"
            )
        return replace(
            whole,
            heads=whole.heads // self.size,
            kv_heads=whole.kv_heads // self.size,
            intermediate_size=whole.intermediate_size // self.size,
            experts=experts and replace(experts, intermediate_size=inner // self.size),
        )

    def part(self, count: int) -> slice:
        """Those of `count` things that it has; the last ranks have fewer if it does not come out even."""
        each = self.most(count)
        return slice(min(self.rank * each, count), min((self.rank + 1) * each, count))

    def most(self, count: int) -> int:
        """Those of `count` things that the first rank has; nobody has more."""
        return -(-count // self.size)


WHOLE = Shard()
"""All of a model, in one process."""
