"""The host tier: pinned memory, and copies that run beside the computation.

On CUDA, what leaves the device is gathered on the stream that computes, into a buffer, before anything begun
later can overwrite it; the buffer goes to the host on a stream of its own. What comes back does so on that
stream altogether, and only who needs it waits. Both directions share this stream, so that they see the host's
memory in the order in which they were asked for.
"""

from __future__ import annotations

import itertools
import mmap
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

from weft.runtime.cuda import CUDA

from .pool import KVPool
from .radix import Tokens
from .runs import runs
from .tier import Arrival

__all__ = ["HostPool"]

_BUFFER_BYTES: Final = 32 << 20
_BUFFERS: Final = 2  # of what leaves: one is filled while the other is still being emptied
_REPEATS: Final = 3  # of what is timed


class HostPool:
    """Keys and values on the host, all of a token in one piece: [slots, layers, 2, kv_heads, head_dim]."""

    def __init__(self, pool: KVPool, slots: int) -> None:
        """Reserve memory for `slots` tokens of `pool`, pinned if that is on CUDA.

        Loading is timed, into the first slots of `pool`. Raises `MemoryError` if the memory cannot be had.
        """
        layers, _, heads, head_dim = pool.keys.shape
        self._pool = pool
        self._device = pool.keys.device
        self._cuda = self._device.type == "cuda"
        shape = (layers, 2, heads, head_dim)
        token_bytes = 2 * layers * heads * head_dim * pool.keys.dtype.itemsize
        self._memory = _Memory(slots * token_bytes, pinned=self._cuda)
        self._tokens = self._memory.bytes.view(pool.keys.dtype).view(slots, *shape)
        piece = max(min(_BUFFER_BYTES // token_bytes, slots), 1)
        self._stream: Any = None
        if self._cuda:
            self._stream = CUDA.Stream(self._device)
        self._piece = piece
        self._in = torch.empty(piece, *shape, dtype=pool.keys.dtype, device=self._device)
        self._out = itertools.cycle([_Buffer(torch.empty_like(self._in)) for _ in range(_BUFFERS)])
        self._base_ms, self._token_ms = self._measure()

    @property
    def slots(self) -> int:
        """See `HostTier.slots`."""
        return len(self._tokens)

    def save(self, slots: Tokens, host: Tokens) -> None:
        """See `HostTier.save`."""
        for first in range(0, len(slots), self._piece):
            part = slice(first, first + self._piece)
            at = self._send(slots[part])
            buffer = next(self._out)
            buffer.await_empty()
            tokens = buffer.tokens[: len(at)]
            for side, whole in enumerate((self._pool.keys, self._pool.values)):
                tokens[:, :, side].copy_(whole.index_select(1, at).transpose(0, 1))
            with self._beside():
                done = 0
                for start, count in runs(host[part]):
                    self._tokens[start : start + count].copy_(tokens[done : done + count], non_blocking=True)
                    done += count
                buffer.mark_empty()

    def load(self, host: Tokens, slots: Tokens) -> Arrival:
        """See `HostTier.load`."""
        with self._beside():
            for first in range(0, len(slots), self._piece):
                part = slice(first, first + self._piece)
                at = self._send(slots[part])
                done = 0
                for start, count in runs(host[part]):
                    self._in[done : done + count].copy_(
                        self._tokens[start : start + count], non_blocking=True
                    )
                    done += count
                tokens = self._in[: len(at)]
                for side, whole in enumerate((self._pool.keys, self._pool.values)):
                    whole.index_copy_(1, at, tokens[:, :, side].transpose(0, 1))
            return _OnStream() if self._cuda else _There()

    def load_ms(self, count: int) -> float:
        """See `HostTier.load_ms`."""
        return self._base_ms + self._token_ms * count

    def close(self) -> None:
        """Wait for what is on its way and give the memory back; nothing may be asked for afterwards."""
        if self._cuda:
            self._stream.synchronize()
        self._tokens = self._tokens[:0]
        self._memory.close()

    def _beside(self) -> AbstractContextManager[Any]:
        """Work on the stream of its own, behind all that has been begun so far."""
        if not self._cuda:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self._stream)

    def _send(self, slots: Tokens) -> torch.Tensor:
        at = torch.from_numpy(slots)
        return at.pin_memory().to(self._device, non_blocking=True) if self._cuda else at

    def _measure(self) -> tuple[float, float]:
        """Milliseconds of any load, and of each token of it."""
        most = min(self._piece, self._pool.slots)
        first = torch.arange(most).numpy()
        self.save(first, first)  # so that what it needs is loaded, and both memories hold the same
        one, many = self._time(1), self._time(most)
        if most == 1 or many <= one:
            return 0.0, many / most
        token_ms = (many - one) / (most - 1)
        return max(one - token_ms, 0.0), token_ms

    def _time(self, count: int) -> float:
        at = torch.arange(count).numpy()
        times = []
        for _ in range(_REPEATS + 1):
            begun = time.perf_counter()
            self.load(at, at)
            if self._cuda:
                self._stream.synchronize()
            times.append((time.perf_counter() - begun) * 1e3)
        return min(times[1:])


class _Buffer:
    """Device memory on its way to the host."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens
        self._emptied: Any = None
        if tokens.is_cuda:
            self._emptied = CUDA.Event()

    def await_empty(self) -> None:
        """Let the current stream wait until it has been copied."""
        if self._emptied is not None:
            self._emptied.wait()

    def mark_empty(self) -> None:
        """It has been copied once the current stream comes here."""
        if self._emptied is not None:
            self._emptied.record()


class _OnStream:
    """An `Arrival` once the current stream comes here."""

    def __init__(self) -> None:
        self._event: Any = CUDA.Event()
        self._event.record()

    def done(self) -> bool:
        return bool(self._event.query())

    def await_on_device(self) -> None:
        self._event.wait()


class _There:
    """An `Arrival` of what is there."""

    def done(self) -> bool:
        return True

    def await_on_device(self) -> None:
        return


class _Memory:
    """Anonymous memory in huge pages where the system has them, page-locked if `pinned`.

    What is unmapped while it is page-locked stays so: no other memory at its address could be pinned. So it
    is unpinned with this object at the latest.
    """

    def __init__(self, size: int, *, pinned: bool) -> None:
        try:
            self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as problem:
            raise MemoryError(f"the host has no {size} bytes for KV: {problem}") from problem
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._unpin: Callable[[], object] = lambda: None
        if pinned:
            address = self.bytes.data_ptr()
            error = int(_cuda_runtime().cudaHostRegister(address, size, 0))
            if error:
                raise MemoryError(f"{size} bytes of the host cannot be pinned (CUDA error {error})")
            self._unpin = weakref.finalize(self, _unpin, address)

    def close(self) -> None:
        """Unpin it; it is freed with the last tensor over it."""
        self._unpin()
        self.bytes = self.bytes[:0]


def _unpin(address: int) -> None:
    _cuda_runtime().cudaHostUnregister(address)


def _cuda_runtime() -> Any:
    return CUDA.cudart()
