"""The decoder-only transformer of the families that weft has code for in float32 on a CPU.

With a small model an operation costs more to start than to carry out, so there are few of them, and most
write into memory that is kept. The weights of the norms and the scale of the attention are multiplied into
the matrices. The two numbers of a pair that is rotated together lie side by side in a head, so that one
complex product rotates all heads; so do the keys in the pool, which are stored rotated.
"""

from __future__ import annotations

from collections import OrderedDict

import torch

from weft.kernels.attention import PagedBatch
from weft.runtime.kv.pool import KVPool

from ..config import ModelConfig
from ..loader import Weights
from ..rope import rotations
from .attention import Heads, plan
from .layer import Layer, Norm, Step, Workspace, scaled
from .linear import Linear, mode_of, tune
from .threads import threads
from .trial import ThreadedModel

__all__ = ["CpuModel"]

_KEPT_WORKSPACES = 4
_WORTHWHILE = 1.1  # how much faster more threads must be, as other processes want the cores, too


class CpuModel(ThreadedModel):
    """A checkpoint that is run in float32 on the CPU, with as many threads as torch has when it is loaded."""

    config: ModelConfig

    def __init__(self, config: ModelConfig, weights: Weights[torch.Tensor], *, name: str) -> None:
        """Lay out the weights anew, and time how their products are computed best."""
        super().__init__(config, name=name, dtype=torch.float32, device=torch.device("cpu"))
        self._heads = Heads(config.kv_heads, config.group, config.head_dim)
        self._windows = set(config.windows)
        self._embedding = weights.embedding
        self._layers = [Layer(config, layer) for layer in weights.layers]
        self._norm = Norm(config.hidden_size, config.norm_eps)
        self._head = Linear(scaled(weights.head, weights.norm))
        table = rotations(config.rope, head_dim=config.head_dim, positions=config.context_length)
        self._rotations = table.to(torch.complex64)[:, None]  # [positions, 1, head_dim / 2]
        self._thread_counts = sorted({1, torch.get_num_threads()})
        self._workspaces: OrderedDict[int, Workspace] = OrderedDict()
        matrices = [matrix for layer in self._layers for matrix in layer.matrices()]
        tune([*matrices, self._head], self._thread_counts)
        most = len(self._thread_counts) - 1
        self._choose_threads(most, gain=_WORTHWHILE)

    @torch.inference_mode()
    def _forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
        at: int,
    ) -> torch.Tensor:
        """Compute with the number of threads that is at index `at` of `_thread_counts`."""
        tokens, rows = ids.shape[0], logit_rows.shape[0]
        with threads(self._thread_counts[at]):
            rotations = self._rotations.index_select(0, torch.from_numpy(batch.positions))
            step = Step(new_slots, rotations, mode_of(tokens, at), at)
            tiles = {window: plan(batch, self._heads, window) for window in self._windows}
            work = self._workspace(tokens)
            torch.index_select(self._embedding, 0, ids, out=work.hidden)
            for index, (layer, window) in enumerate(zip(self._layers, self.config.windows, strict=True)):
                layer.run(work, step, tiles[window], pool.keys[index], pool.values[index])
            last = work.hidden if rows == tokens else work.hidden.index_select(0, logit_rows)
            return self._head(self._norm(last), mode_of(rows, at))

    def _workspace(self, tokens: int) -> Workspace:
        """The tensors of a step of `tokens` tokens: those of the last few sizes are kept."""
        found = self._workspaces.pop(tokens, None) or Workspace(self.config, tokens)
        self._workspaces[tokens] = found
        if len(self._workspaces) > _KEPT_WORKSPACES:
            self._workspaces.popitem(last=False)
        return found
