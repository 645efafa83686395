"""KV from worker to worker: what one has read, another need not read again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import grpc
import numpy as np
import torch

from weft.proto import worker_pb2, worker_pb2_grpc
from weft.runtime.channels import channel_options
from weft.runtime.kv.radix import Tokens
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.handover import KvSpan

from ..faults import TaskError
from .base import KvSource

__all__ = ["NOTHING", "Borrowed", "KvExchange"]

_log = logging.getLogger(__name__)

_PART_BYTES: Final = 1 << 20
_LEAST: Final = 64  # tokens: for fewer nobody is asked
_PEERS: Final = 32  # connections that are kept
_LONGEST_WAIT_S: Final = 60.0  # whatever is asked for
_PATIENCE_S: Final = 5.0  # with a worker that should be sending, beyond the wait


class Borrowed(NamedTuple):
    """What came from another worker."""

    tokens: int
    waited: float  # seconds until it began to come
    seconds: float  # that its coming took


NOTHING: Final = Borrowed(0, 0.0, 0.0)


class KvExchange:
    """Lends the KV of one engine's cache, and borrows for it. Belongs to one event loop."""

    def __init__(self, engine: LLMEngine, model: str, layout: str) -> None:
        self._engine = engine
        self._model = model
        self._layout = layout
        layers, *heads = engine.info.kv_shape
        self._shape = (layers, -1, *heads)
        self._dtype: torch.dtype = getattr(torch, engine.info.dtype)
        self._part = max(_PART_BYTES // engine.info.kv_bytes_per_token, 1)
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    async def close(self) -> None:
        """Hang up everywhere."""
        peers, self._peers = self._peers, OrderedDict()
        await asyncio.gather(*(peer.channel.close() for peer in peers.values()))

    # ---- lending

    async def lend(self, request: worker_pb2.FetchKvRequest) -> AsyncIterator[worker_pb2.KvPart]:
        """The parts of what the cache has. Raises TaskError if the KV of this model is not what is wanted."""
        if not self._layout or request.layout != self._layout:
            raise TaskError("invalid", f"model {self._model!r} stores its KV otherwise here")
        ids = np.asarray(request.ids, dtype=np.int64)
        wait_s = min(request.wait_s, _LONGEST_WAIT_S)
        wish = self._engine.take_kv(request.namespace, ids, request.first, wait_s)
        span = await asyncio.wrap_future(wish)
        if span is None:
            return
        for start in range(span.first, span.end, self._part):
            part = span.part(start, min(start + self._part, span.end))
            yield worker_pb2.KvPart(
                first=start,
                tokens=part.end - start,
                keys=_as_bytes(part.keys),
                values=_as_bytes(part.values),
            )

    # ---- borrowing

    async def borrow(self, source: KvSource, namespace: str, ids: tuple[int, ...]) -> Borrowed:
        """Get what `source` has of a prompt and the cache has not. Whatever goes wrong, nothing is lost."""
        tokens = np.asarray(ids, dtype=np.int64)
        asked = begun = time.monotonic()
        peer = await self._peer(source.address)
        borrowed = 0
        async with peer.turn:  # tasks that come together ask for the same
            held = await asyncio.wrap_future(self._engine.held(namespace, tokens))
            if len(ids) - held < _LEAST:
                return Borrowed(0, time.monotonic() - asked, 0.0)
            request = worker_pb2.FetchKvRequest(
                model=self._model,
                layout=self._layout,
                namespace=namespace,
                ids=ids,
                first=held,
                wait_s=source.wait_s,
            )
            call: Any = peer.stub.FetchKv(request, timeout=source.wait_s + _PATIENCE_S)
            try:
                async for part in call:
                    begun = begun if borrowed else time.monotonic()
                    borrowed += await self._keep(namespace, tokens, part)
            except LookupError as problem:
                _log.info("no more KV from %s: %s", source.address, problem)
            except grpc.aio.AioRpcError as problem:
                _log.info("no KV from %s: %s", source.address, problem.details() or problem.code().name)
            finally:
                call.cancel()
        ended = time.monotonic()
        begun = begun if borrowed else ended
        return Borrowed(borrowed, begun - asked, ended - begun)

    async def _keep(self, namespace: str, tokens: Tokens, part: worker_pb2.KvPart) -> int:
        """Put a part into the cache; returns how many of its tokens are new there. Raises LookupError."""
        size = part.tokens * self._engine.info.kv_bytes_per_token // 2
        fits = 0 < size == len(part.keys) == len(part.values)
        if not fits or part.first + part.tokens > len(tokens):
            raise LookupError(f"the KV of {part.tokens} tokens came as {len(part.keys)} bytes of keys")
        span = KvSpan(part.first, self._tensor(part.keys), self._tensor(part.values))
        return await asyncio.wrap_future(self._engine.give_kv(namespace, tokens, span))

    def _tensor(self, data: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(data), dtype=self._dtype).view(self._shape)

    async def _peer(self, address: str) -> _Peer:
        peer = self._peers.pop(address, None) or _Peer(address)
        self._peers[address] = peer
        idle = [known for known, other in self._peers.items() if not (other is peer or other.turn.locked())]
        if len(self._peers) > _PEERS and idle:
            await self._peers.pop(idle[0]).channel.close()
        return peer


class _Peer:
    """A worker that has been asked."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, channel_options(address))
        self.stub = worker_pb2_grpc.WorkerStub(self.channel)
        self.turn = asyncio.Lock()


def _as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
