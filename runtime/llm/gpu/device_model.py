"""A model whose steps are computed on a device, over tables that lie there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from weft.kernels.attention import PagedBatch
from weft.kernels.decode import DecodePlan, decode_attention, plan_decode
from weft.kernels.extend import ExtendBatch, extend_attention
from weft.kernels.shared_prefix import SharedPlan
from weft.kernels.tables import KVTable
from weft.runtime.kv.pool import KVPool

from ..config import ModelShape
from ..errors import DeviceError
from ..model_base import Model
from ..parallel.comm import ALONE, Communicator
from ..parallel.team import Team
from .steps import Census, Reservation, Step

__all__ = ["DeviceModel", "Forward", "StepAttention"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward pass: first the tokens of sequences that compute just their last one, then all others.

    All tensors lie on the model's device. The host reads none, so a pass can be captured.
    """

    ids: torch.Tensor  # int64 [tokens]
    slots: torch.Tensor  # int64 [tokens]: where their keys and values go
    positions: torch.Tensor  # int64 [tokens]
    table: KVTable
    rows: torch.Tensor  # int32 [decodes]: the table's row of each decode
    lengths: torch.Tensor  # int32 [decodes]: its keys, its own included; 0: an idle row
    extend: ExtendBatch | None = None  # the other tokens
    wanted: torch.Tensor | None = None  # int64 [rows]: the tokens whose logits are wanted; None: all
    shared: SharedPlan | None = None  # prefixes that are read for several decodes at once


@dataclass(frozen=True, slots=True)
class StepAttention:
    """The attention of all layers of one forward pass, to keys that are in the pool."""

    step: Forward
    _plans: dict[tuple[int, int | None], DecodePlan] = field(default_factory=dict)

    def __call__(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> torch.Tensor:
        """Attend `q` [tokens, heads, head_dim] to one layer's pools [slots, kv_heads, head_dim].

        See `weft.kernels.decode` and `weft.kernels.extend`; the result is like `q`.
        """
        step, parts = self.step, []
        decodes = len(step.rows)
        if decodes:
            plan = self._plan(keys.shape[1], window)
            parts.append(
                decode_attention(q[:decodes], keys, values, step.table, plan, scale=scale, softcap=softcap)
            )
        if step.extend is not None:
            parts.append(
                extend_attention(
                    q[decodes:],
                    keys,
                    values,
                    step.table,
                    step.extend,
                    scale=scale,
                    window=window,
                    softcap=softcap,
                )
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _plan(self, kv_heads: int, window: int | None) -> DecodePlan:
        """How the decodes' keys are cut into work: once for all layers that are alike."""
        step, key = self.step, (kv_heads, window)
        if key not in self._plans:
            self._plans[key] = plan_decode(
                step.lengths, step.rows, kv_heads=kv_heads, window=window, shared=step.shared
            )
        return self._plans[key]


class DeviceModel(Model):
    """A model that a `GpuRunner` runs.

    It may be one rank's part of a model: then its `config` has the heads of the part, and all ranks compute
    each step together.
    """

    capturable = True
    """Whether steps may be captured in CUDA graphs."""
    shares_prefixes = True
    """Whether keys that several decodes share can be read once: all layers have the heads of `config`."""
    warm_sizes: tuple[int, ...] = ()
    """Numbers of tokens, more than one, whose steps take kernels of their own besides those of attention."""

    def __init__(
        self,
        config: ModelShape,
        *,
        name: str,
        dtype: torch.dtype,
        device: torch.device,
        comm: Communicator = ALONE,
    ) -> None:
        """`comm` connects the ranks."""
        super().__init__(config, name=name, dtype=dtype, device=device)
        self.comm = comm
        self.team: Team | None = None
        """On rank 0 of several: the other ranks."""

    @abstractmethod
    def compute(self, step: Forward, pool: KVPool, out: torch.Tensor | None = None) -> torch.Tensor:
        """Store the KV of a step's tokens; returns float32 logits [rows, vocab], in `out` if it is given."""

    def together(self, order: Census | Reservation | Step, act: Callable[[], T]) -> T:
        """Do something that every rank must do, as `order` tells them. Raises ParallelError."""
        return act() if self.team is None else self.team.together(order, act)

    @property
    def ranks(self) -> int:
        """See `Model.ranks`."""
        return self.comm.shard.size

    def free_memory(self) -> int:
        """See `Model.free_memory`."""
        return self.together(Census(), lambda: self.comm.least(super(DeviceModel, self).free_memory()))

    def check(self) -> None:
        """See `Model.check`."""
        if self.team is not None:
            self.team.check()

    def probe(self) -> None:
        """See `Model.probe`."""
        if self.device.type == "cuda":
            try:
                torch.cuda.synchronize(self.device)
            except RuntimeError as error:
                raise DeviceError(f"{self.device} computes nothing any more: {error}") from error

    def on_failure(self, listener: Callable[[], None]) -> None:
        """See `Model.on_failure`."""
        if self.team is not None:
            self.team.on_failure(listener)

    def close(self) -> None:
        """See `Model.close`."""
        if self.team is not None:
            self.team.close()

    def forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
    ) -> torch.Tensor:
        """See `Model.forward`; `GpuRunner` calls `compute`, for which it need not make a table each time."""
        counts = np.asarray(batch.key_counts)
        pages = torch.zeros(len(counts), max(batch.key_counts), dtype=torch.int32)
        ends = counts.cumsum()
        for row, (start, end) in enumerate(zip(ends - counts, ends, strict=True)):
            pages[row, : end - start] = torch.from_numpy(batch.slots[start:end])
        positions = torch.from_numpy(batch.positions).to(self.device)
        starts = np.cumsum([0, *batch.query_counts]).tolist()

        def ints(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int32, device=self.device)

        extend = ExtendBatch(ints(list(range(len(counts)))), ints(starts), positions.int())
        table = KVTable(pages.to(self.device))
        return self.compute(
            Forward(ids, new_slots, positions, table, ints([]), ints([]), extend, logit_rows), pool
        )
