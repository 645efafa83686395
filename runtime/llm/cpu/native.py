"""The decoder-only transformer of the Llama, Mistral, Qwen2 and Qwen3 families in float32, compiled from C.

It has no mixtures of experts.

A step is one call into `kernels/cpu/transformer.c`, without Python's lock. A token's logits depend on its own
sequence alone, to the last bit: not on what else a step computes, on how its prompt was cut into steps, on
the slots, or on the number of threads. Keys are stored rotated.
"""

from __future__ import annotations

import ctypes
import weakref

import numpy as np
import torch
from numpy.typing import NDArray

from weft.kernels.attention import PagedBatch
from weft.kernels.cpu.binding import CLayer, CMatrix, CModel, CStep, Matrix
from weft.runtime.kv.pool import KVPool

from ..config import ModelConfig
from ..loader import LayerWeights, Weights
from ..rope import rotations
from .trial import ThreadedModel

__all__ = ["NativeModel"]

Ints = NDArray[np.int64]

_TOLERABLE = 0.8
"""How fast all threads must be, in the speed of one: a core that was busy when the model was loaded may be
idle later."""


class NativeModel(ThreadedModel):
    """A checkpoint that is run by the library, with as many threads as torch has when it is loaded."""

    config: ModelConfig

    def __init__(
        self, config: ModelConfig, weights: Weights[torch.Tensor], library: ctypes.CDLL, *, name: str
    ) -> None:
        """Lay out the weights anew; `library` is that of `weft.kernels.cpu.library`.

        A KV head may have at most `weft_most_group()` query heads. Raises MemoryError if the library gets no
        memory, or no threads.
        """
        super().__init__(config, name=name, dtype=torch.float32, device=torch.device("cpu"))
        self._run, self._panel = library.weft_run, library.weft_panel()
        self._kept: list[torch.Tensor | Matrix] = []  # what C points to
        self._model = self._describe(weights)
        threads = torch.get_num_threads()
        self._runner = library.weft_open(self._model, threads)
        if not self._runner:
            raise MemoryError(f"the model {name!r} gets no memory, or no {threads} threads")
        weakref.finalize(self, library.weft_close, self._runner)
        self._choose_threads(int(threads > 1), gain=_TOLERABLE)

    def _forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
        at: int,
    ) -> torch.Tensor:
        """Compute with one thread (`at` is 0) or all of them (1).

        Raises IndexError for what lies outside its table, as C would not see it.
        """
        logits = torch.empty(len(logit_rows), self.config.vocab_size)
        inputs = _Inputs(self.config, ids, new_slots, batch, pool, logit_rows)
        step = CStep(
            len(inputs.ids),
            len(inputs.query_counts),
            len(inputs.rows),
            *(array.ctypes.data for array in inputs.arrays()),
            pool.slots,
            pool.keys.data_ptr(),
            pool.values.data_ptr(),
            logits.data_ptr(),
        )
        if self._run(self._runner, step, at):
            raise MemoryError(f"no memory for a step of {len(ids)} tokens")
        return logits

    def _describe(self, weights: Weights[torch.Tensor]) -> CModel:
        """The model as C sees it, which is what this object keeps."""
        config = self.config
        table = rotations(config.rope, head_dim=config.head_dim, positions=config.context_length)
        layers = [
            self._layer(layer, window) for layer, window in zip(weights.layers, config.windows, strict=True)
        ]
        return CModel(
            config.layers,
            config.hidden_size,
            config.intermediate_size,
            config.heads,
            config.kv_heads,
            config.head_dim,
            config.norm_eps,
            (CLayer * len(layers))(*layers),
            self._keep(weights.embedding),
            self._keep(weights.norm),
            self._keep(table.real.float()),
            self._keep(table.imag.float()),
            self._matrix(weights.head, None),
        )

    def _layer(self, weights: LayerWeights[torch.Tensor], window: int | None) -> CLayer:
        gate, up = weights.gate_up.chunk(2)
        gate_bias, up_bias = (None, None) if weights.gate_up_bias is None else weights.gate_up_bias.chunk(2)
        return CLayer(
            self._keep(weights.input_norm),
            self._keep(weights.post_norm),
            None if weights.qk_norm is None else self._keep(weights.qk_norm),
            window or 0,
            self._matrix(weights.qkv, weights.qkv_bias),
            self._matrix(weights.out, weights.out_bias),
            self._matrix(gate, gate_bias),
            self._matrix(up, up_bias),
            self._matrix(weights.down, weights.down_bias),
        )

    def _keep(self, tensor: torch.Tensor) -> int:
        kept = tensor.contiguous()
        self._kept.append(kept)
        return kept.data_ptr()

    def _matrix(self, weight: torch.Tensor, bias: torch.Tensor | None) -> CMatrix:
        matrix = Matrix(weight, bias, self._panel)
        self._kept.append(matrix)
        return matrix.c


class _Inputs:
    """The arrays of a step, for which C may trust every index."""

    def __init__(
        self,
        config: ModelConfig,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
    ) -> None:
        """Check them; raises IndexError and ValueError."""
        tokens, keys = len(ids), len(batch.slots)
        self.ids = _indices("ids", ids.numpy(), config.vocab_size)
        self.positions = _indices("positions", batch.positions, config.context_length)
        self.new_slots = _indices("new_slots", new_slots.numpy(), pool.slots)
        self.rows = _indices("logit_rows", logit_rows.numpy(), tokens)
        self.slots = _indices("slots", batch.slots, pool.slots)
        self.key_counts = _indices("key_counts", batch.key_counts, keys + 1)
        self.query_counts = _indices("query_counts", batch.query_counts, tokens + 1)
        self.key_starts = self.key_counts.cumsum() - self.key_counts
        shape = (config.layers, pool.slots, config.kv_heads, config.head_dim)
        for tensor in (pool.keys, pool.values):
            if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
                raise ValueError(f"a pool of {tuple(tensor.shape)} in {tensor.dtype} is none of this model's")
        counted = (self.key_counts.sum(), self.query_counts.sum(), len(self.positions), len(self.new_slots))
        if counted != (keys, tokens, tokens, tokens) or len(self.key_counts) != len(self.query_counts):
            raise ValueError(f"the lengths of a step's arrays contradict one another: {batch}")
        if (self.positions >= self.key_counts.repeat(self.query_counts)).any():
            raise IndexError("a query stands behind the keys of its sequence")

    def arrays(self) -> tuple[Ints, ...]:
        """In the order of `CStep`."""
        return (
            self.ids,
            self.positions,
            self.new_slots,
            self.rows,
            self.slots,
            self.key_starts,
            self.query_counts,
        )


def _indices(name: str, values: Ints | tuple[int, ...], size: int) -> Ints:
    """`values` in one piece of memory, each known to be in 0..size-1."""
    array = np.ascontiguousarray(values, dtype=np.int64)
    if array.size and array.view(np.uint64).max() >= size:  # negative numbers become very large ones
        raise IndexError(f"{name} must be from 0 to {size - 1}, not {array.min()} to {array.max()}")
    return array
