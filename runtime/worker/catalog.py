"""The engines of one worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from weft.graph.ops.base import Op
from weft.proto import worker_pb2
from weft.runtime.kv.advice import Advice

from .engines.base import Caching, Engine, Gauges, HeldKv, Lending, Mortal
from .faults import TaskError

__all__ = ["Catalog"]


class Catalog:
    """Finds the engine of an operation, and starts and stops them all."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = tuple(engines)

    def find(self, op: Op) -> Engine:
        """The engine that runs `op`. Raises TaskError if this worker has none."""
        wanted = str(getattr(op, "model", ""))
        for engine in self._engines:
            if engine.kind == op.kind and wanted in ("", engine.model):
                return engine
        offered = ", ".join(f"{engine.kind} {engine.model!r}" for engine in self._engines)
        needed = f"an engine of kind {op.kind!r}" + (f" with model {wanted!r}" if wanted else "")
        raise TaskError("not_found", f"{op.label()} needs {needed}; this worker has: {offered}")

    def lender(self, model: str) -> Lending:
        """The engine that has the KV of a model. Raises TaskError if this worker has none."""
        for engine in self._engines:
            if isinstance(engine, Lending) and engine.model == model:
                return engine
        raise TaskError("not_found", f"this worker has no language model {model!r}")

    def infos(self) -> list[worker_pb2.EngineInfo]:
        """What each engine offers."""
        return [engine.info() for engine in self._engines]

    def gauges(self) -> Gauges:
        """What all engines hold together."""
        held = [engine.gauges() for engine in self._engines]
        return Gauges(
            kv_free=sum(gauge.kv_free for gauge in held),
            kv_cached=sum(gauge.kv_cached for gauge in held),
            kv_running=sum(gauge.kv_running for gauge in held),
            kv_pins_met=sum(gauge.kv_pins_met for gauge in held),
            kv_pins_broken=sum(gauge.kv_pins_broken for gauge in held),
            indexes=tuple(index for gauge in held for index in gauge.indexes),
        )

    def flush(self) -> None:
        """Have the engines that keep what they have read forget it."""
        for engine in self._engines:
            if isinstance(engine, Caching):
                engine.flush()

    def advise(self, held: HeldKv, advice: Advice) -> None:
        """Tell the engine that has made a context what is known of its future."""
        for engine in self._engines:
            if isinstance(engine, Caching) and engine.model == held.model:
                engine.advise(held, advice)

    async def start(self) -> None:
        """Start every engine, one after another. Raises StartError."""
        for engine in self._engines:
            await engine.start()

    async def fail(self) -> None:
        """Wait until an engine is of no use any more; raises what has happened to it."""
        await asyncio.gather(*(engine.fail() for engine in self._engines if isinstance(engine, Mortal)))
        await asyncio.Event().wait()  # none of them can fail

    async def stop(self) -> None:
        """Stop every engine."""
        await asyncio.gather(*(engine.stop() for engine in self._engines))
