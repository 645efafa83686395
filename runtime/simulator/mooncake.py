"""Traces in Mooncake's format: one request a line, with the prompt as ids of blocks of 512 tokens.

``{"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}`` (Qin et al., FAST
2025); AIPerf and GuideLLM replay the same files. A request stands alone: what it followed on is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from weft.graph.costs import ModelCosts
from weft.runtime.scheduler.prefixes import digest

from .builder import Builder, Text
from .cache import Path
from .programs import Arrival
from .worker import Stat

__all__ = ["TraceError", "read_trace", "write_trace"]

_BLOCK = 512  # tokens


class TraceError(ValueError):
    """A line that is no request; the message names line and field."""


def read_trace(lines: Iterable[str], costs: ModelCosts) -> Iterator[Arrival]:
    """Each request as a program of one call. Raises TraceError."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            time = _number(request, "timestamp", number) / 1e3
            reads, writes = (int(_number(request, f, number)) for f in ("input_length", "output_length"))
            ids = request.get("hash_ids", [])
        except (AttributeError, json.JSONDecodeError) as error:
            raise TraceError(f"line {number} is no JSON object: {error}") from None
        if not isinstance(ids, list) or len(ids) * _BLOCK < reads:
            raise TraceError(f"line {number}: hash_ids must be a list of one id for each {_BLOCK} tokens")
        builder = Builder("request", costs, "calls", f"request {number}")
        lengths = [min(_BLOCK, reads - at) for at in range(0, reads, _BLOCK)]
        prompt = [Text(f"block {id}", tokens) for id, tokens in zip(ids, lengths, strict=False)]
        builder.write(prompt or [Text(f"empty {number}", 1)], max(writes, 1))
        yield Arrival(time, builder.build())


def write_trace(calls: Iterable[Stat]) -> Iterator[str]:
    """The calls of language models that a simulation kept, those that write something, in order of time."""
    names: dict[int, int] = {}
    for call in sorted((call for call in calls if call.written), key=lambda call: call.started):
        ids = [names.setdefault(key, len(names)) for key in _block_keys(call.path)]
        request = {
            "timestamp": round(call.started * 1e3),
            "input_length": round(call.path[-1].tokens),
            "output_length": call.written,
            "hash_ids": ids,
        }
        yield json.dumps(request)


def _block_keys(path: Path) -> Iterator[int]:
    """For each block of 512 tokens a key that two prompts share only if they agree so far."""
    end, at = path[-1].tokens, 0
    for number in range(int(-(-end // _BLOCK))):
        last = min((number + 1) * _BLOCK, end)
        while path[at].tokens < last:
            at += 1
        yield digest(f"{path[at].key} {last}")


def _number(request: dict[str, object], field: str, line: int) -> float:
    value = request.get(field)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
        raise TraceError(f"line {line}: {field} must be a number of at least 0, not {value!r}")
    return float(value)
