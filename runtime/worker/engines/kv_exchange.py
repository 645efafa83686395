"""KV from worker to worker: what one has read, another need not read again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple

import grpc
import numpy as np
import torch

from weft.proto import worker_pb2, worker_pb2_grpc
from weft.runtime.access import Access, keyed
from weft.runtime.channels import open_channel
from weft.runtime.kv.radix import Tokens, common_prefix
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
_GRACE_S: Final = 0.1  # for tasks that are to read what is asked for, and are on their way here
_PATIENCE_S: Final = 5.0  # with a worker that should be sending, beyond the wait


class Borrowed(NamedTuple):
    """What came from another worker."""

    tokens: int
    waited: float  # seconds until it was there to be sent
    seconds: float  # that its coming took, from the question on


NOTHING: Final = Borrowed(0, 0.0, 0.0)


class KvExchange:
    """Lends the KV of one engine's cache, and borrows for it. Belongs to one event loop."""

    def __init__(self, engine: LLMEngine, model: str, layout: str, access: Access) -> None:
        self._engine = engine
        self._model = model
        self._layout = layout
        self._access = access
        layers, *heads = engine.info.kv_shape
        self._shape = (layers, -1, *heads)
        self._dtype: torch.dtype = getattr(torch, engine.info.dtype)
        self._part = max(_PART_BYTES // engine.info.kv_bytes_per_token, 1)
        self._channels: OrderedDict[str, grpc.aio.Channel] = OrderedDict()  # by address
        self._fetches: list[_Fetch] = []

    async def close(self) -> None:
        """Hang up everywhere."""
        channels, self._channels = self._channels, OrderedDict()
        await asyncio.gather(*(channel.close() for channel in channels.values()))

    # ---- lending

    async def lend(self, request: worker_pb2.FetchKvRequest) -> AsyncIterator[worker_pb2.KvPart]:
        """The parts of what the cache has. Raises TaskError if the KV of this model is not what is wanted."""
        if not self._layout or request.layout != self._layout:
            raise TaskError("invalid", f"model {self._model!r} stores its KV otherwise here")
        span = await self._span(request, time.monotonic() + min(request.wait_s, _LONGEST_WAIT_S))
        if span is None:
            return
        for start in range(span.first, span.end, self._part):
            part = span.part(start, min(start + self._part, span.end))
            yield worker_pb2.KvPart(
                first=start,
                tokens=part.end - start,
                keys=_as_bytes(part.keys),
                values=_as_bytes(part.values),
                waited_s=span.waited_s if start == span.first else 0.0,
            )

    async def _span(self, request: worker_pb2.FetchKvRequest, deadline: float) -> KvSpan | None:
        """What the cache has once nothing more of it is coming, computed here or fetched."""
        ids = np.asarray(request.ids, dtype=np.int64)
        began = time.monotonic()
        while True:
            if self._fetches:
                with suppress(TimeoutError):
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await self._settle(_Fetch(request.namespace, ids), self._fetches)
            asked = time.monotonic()
            wish = self._engine.take_kv(request.namespace, ids, request.first, deadline - asked)
            span = await asyncio.wrap_future(wish)
            if span is not None:
                return replace(span, waited_s=asked - began + span.waited_s)
            if time.monotonic() > min(began + _GRACE_S, deadline):
                return None
            await asyncio.sleep(_GRACE_S / 10)

    # ---- borrowing

    async def borrow(self, source: KvSource | None, namespace: str, ids: tuple[int, ...]) -> Borrowed:
        """Get what `source` has of a prompt and the cache has not. Whatever goes wrong, nothing is lost.

        What another task is getting is waited for, with or without a source of its own.
        """
        if source is None and not self._fetches:
            return NOTHING
        asked = time.monotonic()
        fetch, others = _Fetch(namespace, np.asarray(ids, dtype=np.int64)), list(self._fetches)
        if source is None:
            await self._settle(fetch, others)
            return Borrowed(0, time.monotonic() - asked, 0.0)
        self._fetches.append(fetch)
        try:
            await self._settle(fetch, others)
            waited = time.monotonic() - asked
            if len(fetch.tokens) - fetch.first < _LEAST:
                return Borrowed(0, waited, 0.0)
            borrowed = await self._fetch(source, fetch)
        finally:
            self._fetches.remove(fetch)
            fetch.ended.set()
        return borrowed._replace(waited=waited + borrowed.waited)

    async def _settle(self, fetch: _Fetch, others: Sequence[_Fetch]) -> None:
        """Find out what of a prompt the cache holds, once none of the others brings most of the rest."""
        while True:
            fetch.first = await asyncio.wrap_future(self._engine.held(fetch.namespace, fetch.tokens))
            other = next((other for other in others if other.serves(fetch)), None)
            if other is None:
                return
            await other.ended.wait()

    async def _fetch(self, source: KvSource, fetch: _Fetch) -> Borrowed:
        namespace, tokens = fetch.namespace, fetch.tokens
        asked = time.monotonic()
        request = worker_pb2.FetchKvRequest(
            model=self._model,
            layout=self._layout,
            namespace=namespace,
            ids=tokens.tolist(),
            first=fetch.first,
            wait_s=source.wait_s,
        )
        borrowed, waited = 0, None
        stub = await self._peer(source.address)
        call: Any = stub.FetchKv(request, timeout=source.wait_s + _PATIENCE_S)
        try:
            async for part in call:
                waited = part.waited_s if waited is None else waited
                borrowed += await self._keep(namespace, tokens, part)
        except LookupError as problem:
            _log.info("no more KV from %s: %s", source.address, problem)
        except grpc.aio.AioRpcError as problem:
            _log.info("no KV from %s: %s", source.address, problem.details() or problem.code().name)
        finally:
            call.cancel()
        seconds = time.monotonic() - asked
        waited = seconds if waited is None else min(waited, seconds)
        return Borrowed(borrowed, waited, seconds - waited)

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

    async def _peer(self, address: str) -> worker_pb2_grpc.WorkerAsyncStub:
        channel = self._channels.pop(address, None)
        if channel is None:
            channel = open_channel(address, self._access)
        self._channels[address] = channel
        if len(self._channels) > _PEERS:  # whoever uses the oldest just now reads what it was to fetch
            _, oldest = self._channels.popitem(last=False)
            await oldest.close()
        return worker_pb2_grpc.WorkerStub(keyed(channel, self._access.key))


class _Fetch:
    """The KV of a prompt, from token `first` on, that is to come from another worker."""

    def __init__(self, namespace: str, tokens: Tokens) -> None:
        self.namespace = namespace
        self.tokens = tokens
        self.first = 0
        self.ended = asyncio.Event()

    def serves(self, other: _Fetch) -> bool:
        """Whether another one can use most of what this brings."""
        if self.ended.is_set() or self.namespace != other.namespace:
            return False
        shared = common_prefix(self.tokens[: len(other.tokens)], other.tokens)
        least = max(_LEAST, (len(self.tokens) - self.first) // 2)
        return shared - max(self.first, other.first) >= least


def _as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
