"""Batches for training, made ahead by worker processes; the same seed gives the same batches."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from random import Random
from types import TracebackType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from .encoder import Encoder
from .rows import ROW, Row, rows

__all__ = ["FIRST_HELD_OUT", "Feed", "shard"]

FIRST_HELD_OUT: Final = 1_000_000_000
"""Seeds from here on are never those of training data."""
_SHARD: Final = 16  # steps: what a worker makes in one go

_encode: Encoder | None = None  # of a worker process


def shard(seed: int, count: int, *, progress: float, length: int = ROW) -> Row:
    """(count, 4, length): the first rows of a seed, at that place of the curriculum."""
    global _encode
    if _encode is None:
        _encode = Encoder()
    stream = rows(_encode, Random(seed), progress, length)
    return np.stack([next(stream) for _ in range(count)])


class Feed:
    """Batches of (rows, 4, ROW) on a device, in order, from a step on."""

    def __init__(
        self,
        *,
        seed: int,
        steps: int,
        first: int,
        rows: int,
        workers: int,
        device: torch.device,
        length: int = ROW,
    ) -> None:
        self._seed = seed
        self._shards = -(-steps // _SHARD)
        self._first = first
        self._rows = rows
        self._length = length
        self._device = device
        self._ahead = 2 * workers
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._pool = ProcessPoolExecutor(workers, mp_context=context)
        self._ready: queue.Queue[Tensor | BaseException] = queue.Queue(maxsize=8)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self.waits = 0
        """How often a step found no batch ready."""

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def next(self) -> Tensor:
        """The next batch, as int32."""
        self.waits += self._ready.empty()
        batch = self._ready.get()
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def _fill(self) -> None:
        try:
            for batch in self._batches():
                tensor = torch.from_numpy(batch.astype(np.int32))
                if self._device.type == "cuda":
                    tensor = tensor.pin_memory().to(self._device, non_blocking=True)
                if not self._put(tensor):
                    return
        except BaseException as error:  # whatever it is, the training has to know
            self._put(error)

    def _put(self, item: Tensor | BaseException) -> bool:
        while not self._stopping.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def _batches(self) -> Iterator[Row]:
        skip = self._first % _SHARD
        waiting = iter(range(self._first // _SHARD, self._shards))
        window: deque[Future[Row]] = deque()
        while not self._stopping.is_set():
            while len(window) < self._ahead and (index := next(waiting, None)) is not None:
                size = _SHARD * self._rows
                seed = self._seed * 1_000_003 + index
                place = index / self._shards
                window.append(self._pool.submit(shard, seed, size, progress=place, length=self._length))
            if not window:
                return
            made = window.popleft().result()
            for step in range(skip, _SHARD):
                yield made[step * self._rows : (step + 1) * self._rows]
            skip = 0
