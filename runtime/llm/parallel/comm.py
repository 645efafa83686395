"""What the processes that share a model say to each other while they compute."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed

from .shard import WHOLE, Shard

__all__ = ["ALONE", "Collective", "Communicator"]

_PATIENCE: Final = timedelta(seconds=60)  # for the others, once all have loaded their parts

_DIST: Final[Any] = torch.distributed  # which backends it has depends on how it was built


class Communicator(ABC):
    """All ranks must call the same methods in the same order. On CUDA they may be captured in graphs."""

    shard: Shard

    @abstractmethod
    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' tensors, which may take the place of `x`."""

    @abstractmethod
    def join(self, logits: torch.Tensor, vocab: int) -> torch.Tensor:
        """The columns of all ranks, in their order: [rows, width] of each to [rows, vocab].

        Every rank has the same width; what exceeds `vocab` is left out.
        """

    @abstractmethod
    def broadcast(self, ids: torch.Tensor | None, count: int) -> torch.Tensor:
        """The tensor of rank 0, int64 [count], which alone has it."""

    @abstractmethod
    def least(self, number: int) -> int:
        """The least of all ranks' numbers."""


class _Alone(Communicator):
    shard = WHOLE

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def join(self, logits: torch.Tensor, vocab: int) -> torch.Tensor:
        return logits

    def broadcast(self, ids: torch.Tensor | None, count: int) -> torch.Tensor:
        assert ids is not None
        return ids

    def least(self, number: int) -> int:
        return number


ALONE: Final = _Alone()
"""That of a process which has the whole model."""


class Collective(Communicator):
    """Through NCCL on CUDA, else through gloo; on the stream that computes."""

    def __init__(self, shard: Shard, device: torch.device) -> None:
        """Not connected yet."""
        self.shard = shard
        self.device = device
        self._backend: Any = None
        self._aborting: threading.Thread | None = None

    def connect(self, meeting: Path) -> None:
        """Find the other ranks by a file that all of them name; waits for them to come."""
        store = _DIST.FileStore(str(meeting), self.shard.size)
        rank, size = self.shard.rank, self.shard.size
        if self.device.type == "cuda":
            options = _DIST.ProcessGroupNCCL.Options()
            options._timeout = _PATIENCE
            self._backend = _DIST.ProcessGroupNCCL(store, rank, size, options)
        else:
            options = _DIST.ProcessGroupGloo._Options()
            options._timeout = _PATIENCE
            options._devices = [_DIST.ProcessGroupGloo.create_device(hostname="127.0.0.1", lazy_init=False)]
            self._backend = _DIST.ProcessGroupGloo(store, rank, size, options)
        self.least(0)  # NCCL connects at the first use

    def abort(self, within_s: float) -> None:
        """Let go of the other ranks: what waits for them ends, with wrong results. Any thread may call it.

        This happens at once. It takes longer, and with CUDA graphs until all are gone that have captured what
        ranks say to each other, to give everything back; that is waited for no longer than `within_s`.
        """
        backend, self._backend = self._backend, None
        if backend is not None:
            self._aborting = threading.Thread(target=backend.abort, name="weft-abort", daemon=True)
            self._aborting.start()
        if self._aborting is not None:
            self._aborting.join(within_s)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """See `Communicator.sum`; in place."""
        if x.numel():
            self._reduce(x, _DIST.ReduceOp.SUM)
        return x

    def join(self, logits: torch.Tensor, vocab: int) -> torch.Tensor:
        """See `Communicator.join`."""
        rows, width = logits.shape
        all_of_them = logits.new_empty(self.shard.size, rows, width)
        if rows:
            options = _DIST.distributed_c10d.AllgatherOptions()
            options.asyncOp = False
            self._await(self._backend._allgather_base(all_of_them.view(-1, width), logits, options))
        return all_of_them.transpose(0, 1).reshape(rows, self.shard.size * width)[:, :vocab]

    def broadcast(self, ids: torch.Tensor | None, count: int) -> torch.Tensor:
        """See `Communicator.broadcast`."""
        if ids is None:
            ids = torch.empty(count, dtype=torch.int64, device=self.device)
        options = _DIST.distributed_c10d.BroadcastOptions()
        options.asyncOp = False
        options.rootRank = options.rootTensor = 0
        self._await(self._backend.broadcast([ids], options))
        return ids

    def least(self, number: int) -> int:
        """See `Communicator.least`."""
        found = torch.tensor([number], dtype=torch.int64, device=self.device)
        self._reduce(found, _DIST.ReduceOp.MIN)
        return int(found.item())

    def _reduce(self, x: torch.Tensor, operation: Any) -> None:
        options = _DIST.distributed_c10d.AllreduceOptions()
        options.reduceOp = operation
        options.asyncOp = False
        self._await(self._backend.allreduce([x], options))

    @staticmethod
    def _await(work: Any) -> None:
        """On CUDA only what comes next on the stream waits."""
        if work is not None:
            work.wait()
