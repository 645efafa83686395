"""A run as OpenTelemetry's spans describe it: the run, and below it every attempt of a primitive.

Attributes `gen_ai.*` are those of the semantic conventions for GenAI 0.1.0, which are in development; all
others of weft begin with `weft.`. Texts of prompts, answers and arguments are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from weft.graph.ir import Node
from weft.graph.ops.common import Embed, Search, Tool
from weft.graph.ops.primitive import Decode
from weft.proto import worker_pb2
from weft.runtime.orchestrator.record import OBSERVED, Attempt, NodeTimes, RunRecord, Unfinished
from weft.runtime.orchestrator.trace import CLIENT, ORCHESTRATOR, PERSON, PHASES

from .tally import WAIT

__all__ = ["Part", "parts", "whole"]

Attributes = dict[str, str | bool | int | float | list[str]]

_HERE: Final = frozenset({CLIENT, ORCHESTRATOR, PERSON})
_PROVIDER: Final = "weft"


class Part(NamedTuple):
    """What a span says; times are in seconds since the run began."""

    name: str
    start_s: float
    end_s: float
    attributes: Attributes
    problem: str | None = None  # that it ended with
    remote: bool = False  # whether a worker did it


def whole(record: RunRecord) -> Part:
    """The run, which has ended."""
    fault = record.fault
    attributes: Attributes = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.agent.name": record.program,
        "weft.run": record.id,
        "weft.state": record.state,
        "weft.primitives": record.nodes_done,
        **_usage_of_all(record),
    }
    if record.namespace:
        attributes["weft.namespace"] = record.namespace
    if fault is not None:
        attributes["error.type"] = fault.code
        attributes |= {"weft.node": fault.node} if fault.node else {}
        attributes |= {"weft.worker": fault.worker} if fault.worker else {}
        attributes |= _code(fault.location)
    problem = fault.message if fault is not None and record.state == "failed" else None
    return Part(f"invoke_workflow {record.program}".strip(), 0.0, record.seconds, attributes, problem)


def parts(record: RunRecord) -> Iterator[Part]:
    """Its primitives, as far as they take more than microseconds."""
    for times in record.times.values():
        if times.node.op.kind in OBSERVED:
            yield _done(times)
    for unfinished in record.unfinished:
        yield _unfinished(unfinished)


def _done(times: NodeTimes) -> Part:
    timing = times.timing
    name, attributes = _common(times.attempt)
    attributes |= _gen_ai_results(times.node, timing)
    if timing.reused:
        attributes["weft.reused"] = True
    if timing.batch:
        attributes["weft.batch"] = timing.batch
    waited = max(times.attempt.at_s - times.ready_s, 0.0)
    for phase, seconds in ((WAIT, waited), *((phase, getattr(timing, phase)) for phase in PHASES)):
        if seconds:
            attributes[f"weft.phase.{phase}"] = seconds
    start_s = min(times.ready_s, times.finished_s)
    return Part(name, start_s, times.finished_s, attributes, remote=_is_remote(times.attempt))


def _unfinished(unfinished: Unfinished) -> Part:
    attempt, fault = unfinished.attempt, unfinished.fault
    name, attributes = _common(attempt)
    attributes["weft.outcome"] = unfinished.outcome
    problem = None
    if fault is not None:
        attributes["error.type"], problem = fault.code, fault.message
    return Part(name, attempt.at_s, unfinished.until_s, attributes, problem, _is_remote(attempt))


def _common(attempt: Attempt) -> tuple[str, Attributes]:
    """A span's name, and what is known before the results."""
    name, attributes = _gen_ai(attempt.node)
    attributes |= {"weft.node": attempt.node.label(), "weft.worker": attempt.worker}
    if attempt.number > 1:
        attributes["weft.attempt"] = attempt.number
    return name, attributes | _code(attempt.node.location)


def _gen_ai(node: Node) -> tuple[str, Attributes]:
    match node.op:
        case Decode(model=model, sampling=sampling):
            attributes = _operation("chat", model)
            attributes |= {
                "gen_ai.request.max_tokens": sampling.max_tokens,
                "gen_ai.request.temperature": float(sampling.temperature),
            }
            return f"chat {model}", attributes
        case Embed(model=model):
            return f"embeddings {model}".strip(), _operation("embeddings", model)
        case Search(index=index):
            return f"retrieval {index}", _operation("retrieval") | {"gen_ai.data_source.id": index}
        case Tool(tool=tool):
            called: Attributes = {"gen_ai.tool.name": tool, "gen_ai.tool.type": "function"}
            return f"execute_tool {tool}", _operation("execute_tool") | called
        case op:
            model = getattr(op, "model", "")
            attributes = {"gen_ai.request.model": model} if model else {}
            return f"{op.label()} {model}".strip(), attributes


def _operation(name: str, model: str = "") -> Attributes:
    found: Attributes = {"gen_ai.operation.name": name, "gen_ai.provider.name": _PROVIDER}
    return found | ({"gen_ai.request.model": model} if model else {})


def _gen_ai_results(node: Node, timing: worker_pb2.Timing) -> Attributes:
    found: Attributes = {}
    if timing.prompt_tokens:
        found["gen_ai.usage.input_tokens"] = timing.prompt_tokens
    if isinstance(node.op, Decode):
        found["gen_ai.usage.output_tokens"] = timing.generated_tokens
    if timing.finish:
        found["gen_ai.response.finish_reasons"] = [timing.finish]
    for name in ("cached_tokens", "computed_tokens", "fetched_tokens"):
        if tokens := getattr(timing, name):
            found[f"weft.{name}"] = tokens
    return found


def _usage_of_all(record: RunRecord) -> Attributes:
    timings = [times.timing for times in record.times.values() if times.node.op.kind == "llm"]
    if not timings:
        return {}
    prompts = sum(timing.prompt_tokens for timing in timings)
    computed = sum(timing.computed_tokens for timing in timings)
    return {
        "gen_ai.usage.input_tokens": prompts,
        "gen_ai.usage.cache_read.input_tokens": max(prompts - computed, 0),
        "gen_ai.usage.output_tokens": sum(timing.generated_tokens for timing in timings),
    }


def _code(location: str) -> Attributes:
    """A place in a program, `file:line`, by the conventions for code."""
    file, _, line = location.rpartition(":")
    return {"code.file.path": file, "code.line.number": int(line)} if file and line.isdecimal() else {}


def _is_remote(attempt: Attempt) -> bool:
    return attempt.worker not in _HERE
