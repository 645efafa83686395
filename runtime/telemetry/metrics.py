"""A server's metrics as Prometheus reads them: its state when it is asked, and the sums of `Tally`.

Names and labels are described in docs/operations.md.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from weft.proto import worker_pb2
from weft.runtime.layout import expected_engines
from weft.runtime.orchestrator.counts import OTHER
from weft.runtime.orchestrator.orchestrator import Orchestrator
from weft.runtime.orchestrator.workers import WorkerLink
from weft.runtime.scheduler.faults import CODES

from .tally import Histogram, Requests, Tally

if TYPE_CHECKING:
    from .traces import Traces

__all__ = ["Metrics"]

_STATES: Final = ("done", "failed", "cancelled")
_TOKENS: Final = "Tokens {}; by model."

Labels = str | tuple[str, ...]

L = TypeVar("L", bound=Labels)


class Metrics:
    """The metrics of one orchestrator, from now on. `requests` are to be noted by its HTTP door."""

    def __init__(self, orchestrator: Orchestrator, traces: Traces | None = None) -> None:
        self.requests = Requests()
        self._orchestrator = orchestrator
        self._traces = traces
        self._tally = Tally()
        self._process = ProcessCollector(registry=None)
        self._version = version("weft")
        orchestrator.watchers.append(self._tally.over)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """What the server tells a scraper that accepts these formats, and the format."""
        encode, content_type = choose_encoder(accept)
        found = _Collected(self.collect())
        return await asyncio.to_thread(encode, found), content_type  # what takes longest, aside

    def collect(self) -> list[Metric]:
        """The metrics as they are now. Belongs to the orchestrator's event loop."""
        for run in self._orchestrator.shell.runs.values():
            self._tally.look(run.record)
        return [
            _gauge("weft_build_info", "1, with the version of weft.", ["version"], {self._version: 1}),
            *self._process.collect(),
            *self._of_runs(),
            *self._of_primitives(),
            *self._of_queues(),
            *self._of_workers(),
            *self._of_stores(),
            *self._of_requests(),
        ]

    def _of_runs(self) -> Iterator[Metric]:
        counts, tally = self._orchestrator.counts, self._tally
        ended = dict.fromkeys(_STATES, 0) | counts.ended
        failed = dict.fromkeys((*CODES, OTHER), 0) | counts.failed
        yield _gauge("weft_runs", "Runs that have not ended, by state.", ["state"], self._live_runs())
        yield _counter("weft_runs_started", "Runs that have begun.", [], {(): counts.started})
        yield _counter("weft_runs_ended", "Runs that have ended, by state.", ["state"], ended)
        yield _counter("weft_runs_failed", "Failed runs, by the fault's code.", ["code"], failed)
        yield _counter(
            "weft_runs_refused",
            "Requests for runs that were not accepted, by gRPC status.",
            ["status"],
            {"invalid_argument": 0, "not_found": 0} | counts.refused,
        )
        yield _histogram(
            "weft_run_duration_seconds", "From a run's begin to its end.", ["program", "state"], tally.runs
        )
        yield _histogram(
            "weft_time_to_first_text_seconds",
            "From a run's begin to the first piece of text that its client streams.",
            [],
            {(): tally.first_text},
        )

    def _live_runs(self) -> dict[Labels, float]:
        runs = self._orchestrator.shell.runs.values()
        waiting = sum(any(map(run.is_question, run.attempts)) for run in runs)
        resuming = self._orchestrator.resumption.waiting
        return {"running": len(runs) - waiting, "waiting": waiting, "resuming": resuming}

    def _of_primitives(self) -> Iterator[Metric]:
        tally, kind_and_model = self._tally, ["kind", "model"]
        yield _counter(
            "weft_primitives",
            "Attempts of primitives, by how they ended.",
            [*kind_and_model, "outcome"],
            tally.attempts,
        )
        yield _histogram(
            "weft_primitive_duration_seconds",
            "From a primitive's being ready to its being done.",
            kind_and_model,
            tally.primitives,
        )
        yield _histogram(
            "weft_primitive_phase_seconds",
            "The parts of that time.",
            [*kind_and_model, "phase"],
            tally.phases,
        )
        yield _histogram(
            "weft_time_per_output_token_seconds", "Decode time a token, by model.", ["model"], tally.per_token
        )
        for what, text, tokens in (
            ("prompt", "of prompts that were written on or weighed", tally.prompt_tokens),
            ("computed", "of prompts whose KV was computed, not found in a cache", tally.computed_tokens),
            ("fetched", "of prompts whose KV came from another worker", tally.fetched_tokens),
            ("generated", "that were written", tally.generated_tokens),
        ):
            yield _counter(f"weft_{what}_tokens", _TOKENS.format(text), ["model"], tokens)

    def _of_queues(self) -> Iterator[Metric]:
        queued, held = Counter[Labels](), Counter[Labels]()
        for backlog in self._orchestrator.shell.scheduler.backlogs():
            queued[backlog.key] += backlog.queued
            held[backlog.key] += backlog.held
        labels = ["kind", "model"]
        yield _gauge("weft_queued", "Ready primitives that wait for a worker with room.", labels, queued)
        yield _gauge("weft_held", "Ready primitives that admission keeps back.", labels, held)

    def _of_workers(self) -> Iterator[Metric]:
        fleet, expected = self._orchestrator.fleet, expected_engines(self._orchestrator.settings)
        links, labels = list(fleet), ["kind", "model"]
        offered = Counter((engine.kind, engine.model) for link in links for engine in link.info.engines)
        kinds = {kind for kind, _ in offered}
        absent = [(kind, model) for kind, model in expected if model or kind not in kinds]
        there = dict.fromkeys(absent, 0) | offered
        yield _gauge("weft_workers", "Workers that are there; 0: the settings ask for one.", labels, there)
        yield _counter("weft_worker_joins", "How often workers have joined.", labels, fleet.joins)
        yield _counter("weft_worker_losses", "How often workers have been lost.", labels, fleet.losses)
        tasks = self._orchestrator.shell.scheduler.in_flight()
        yield _gauge("weft_worker_tasks", "Primitives that a worker has been given.", ["worker"], tasks)
        yield from _of_caches(links)

    def _of_stores(self) -> Iterator[Metric]:
        results, journal = self._orchestrator.results.stats, self._orchestrator.keeping.usage()
        for what, text, count in (
            ("hits", "Results of equal work that were taken.", results.hits),
            ("misses", "Results that were looked for and not there.", results.misses),
            ("evictions", "Results that were given up for others.", results.evictions),
        ):
            yield _counter(f"weft_result_cache_{what}", text, [], {(): count})
        for what, text, count in (
            ("entries", "Results that are kept.", results.entries),
            ("bytes", "What they take.", results.size),
        ):
            yield _gauge(f"weft_result_cache_{what}", text, [], {(): count})
        size, pending = journal or (0, 0)
        yield _gauge("weft_journal_bytes", "The journal of detached runs on the disk.", [], {(): size})
        yield _gauge("weft_journal_pending_writes", "Writes that it has yet to do.", [], {(): pending})
        sent, dropped = (self._traces.sent, self._traces.dropped) if self._traces else (0, 0)
        yield _counter("weft_spans_sent", "Spans that a collector has taken.", [], {(): sent})
        yield _counter("weft_spans_dropped", "Spans that no collector has got.", [], {(): dropped})

    def _of_requests(self) -> Iterator[Metric]:
        count, seconds = self.requests.count, self.requests.seconds
        yield _counter("weft_http_requests", "Requests over HTTP, by route.", ["route", "status"], count)
        yield _histogram(
            "weft_http_request_duration_seconds", "Until the end of the answer.", ["route"], seconds
        )


def _of_caches(links: Iterable[WorkerLink]) -> Iterator[Metric]:
    """What language models' workers have said last of their KV caches and requests."""
    tokens: dict[Labels, float] = {}
    requests: dict[Labels, float] = {}
    contexts: dict[Labels, float] = {}
    pins: dict[Labels, float] = {}
    for worker, model, status in _statuses(links):
        tokens[worker, model, "free"] = status.kv_free
        tokens[worker, model, "cached"] = status.kv_cached
        tokens[worker, model, "running"] = status.kv_running
        requests[worker, model, "running"] = status.running
        requests[worker, model, "waiting"] = status.waiting
        contexts[worker, model] = status.contexts
        pins[worker, model, "met"] = status.kv_pins_met
        pins[worker, model, "broken"] = status.kv_pins_broken
    labels = ["worker", "model"]
    yield _gauge("weft_kv_tokens", "Slots of a worker's KV pool, by use.", [*labels, "state"], tokens)
    yield _gauge("weft_engine_requests", "Requests in a model's engine.", [*labels, "state"], requests)
    yield _gauge("weft_engine_contexts", "Contexts that it holds for runs.", labels, contexts)
    yield _counter(
        "weft_kv_pinned_tokens",
        "Tokens whose KV was advised to be kept: used in time, or evicted before.",
        [*labels, "outcome"],
        pins,
    )


def _statuses(links: Iterable[WorkerLink]) -> Iterator[tuple[str, str, worker_pb2.Status]]:
    for link in links:
        for engine in link.info.engines:
            if engine.kind == "llm" and link.status is not None:
                yield link.id, engine.model, link.status


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[L, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(_listed(key), value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], values: Mapping[L, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(_listed(key), value)
    return family


def _histogram(name: str, text: str, labels: Sequence[str], values: Mapping[L, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        bounds = [*map(str, map(float, value.bounds)), "+Inf"]
        family.add_metric(_listed(key), list(zip(bounds, accumulate(value.counts), strict=True)), value.sum)
    return family


def _listed(labels: Labels) -> Sequence[str]:
    return [labels] if isinstance(labels, str) else labels


class _Collected(Collector):
    """Metrics that have been collected."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._metrics
