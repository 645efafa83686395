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
from weft.runtime.orchestrator.trace import PERSON
from weft.runtime.orchestrator.workers import WorkerLink
from weft.runtime.scheduler.faults import CODES

from .tally import Histogram, Requests, Tally

if TYPE_CHECKING:
    from .traces import Traces

__all__ = ["Metrics"]

_STATES: Final = ("done", "failed", "cancelled")

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
        yield _gauge("weft_runs", "Runs that have not ended.", ["state"], self._live_runs())
        yield _counter("weft_runs_started", "Runs that have begun.", [], {(): counts.started})
        yield _counter("weft_runs_ended", "Runs that have ended.", ["state"], ended)
        yield _counter(
            "weft_runs_failed", "Runs that have failed, by the code of the fault.", ["code"], failed
        )
        yield _counter(
            "weft_runs_refused",
            "Requests for runs that were refused, by gRPC status.",
            ["status"],
            {"invalid_argument": 0, "not_found": 0} | counts.refused,
        )
        yield _histogram(
            "weft_run_duration_seconds",
            "Seconds from the beginning of a run to its end.",
            ["program", "state"],
            tally.runs,
        )
        yield _histogram(
            "weft_time_to_first_text_seconds",
            "Seconds from the beginning of a run to the first piece of a text that its client streams.",
            [],
            {(): tally.first_text},
        )

    def _live_runs(self) -> dict[Labels, float]:
        runs = self._orchestrator.shell.runs.values()
        waiting = sum(any(attempt.worker == PERSON for attempt in run.attempts.values()) for run in runs)
        resuming = self._orchestrator.resumption.waiting
        return {"running": len(runs) - waiting, "waiting": waiting, "resuming": resuming}

    def _of_primitives(self) -> Iterator[Metric]:
        work, labels = self._tally.work, ["kind", "model"]
        yield _counter(
            "weft_primitives",
            "Attempts of primitives, by how they ended.",
            [*labels, "outcome"],
            {(*key, outcome): count for key, w in work.items() for outcome, count in w.attempts.items()},
        )
        yield _histogram(
            "weft_primitive_duration_seconds",
            "Seconds from when a primitive was ready to when it was done.",
            labels,
            {key: w.seconds for key, w in work.items()},
        )
        yield _histogram(
            "weft_primitive_phase_seconds",
            "The parts of these seconds.",
            [*labels, "phase"],
            {(*key, phase): seconds for key, w in work.items() for phase, seconds in w.phases.items()},
        )
        models = {model: w for (kind, model), w in work.items() if kind == "llm"}
        yield _histogram(
            "weft_time_per_output_token_seconds",
            "Seconds of a decode, divided by the tokens that it wrote.",
            ["model"],
            {model: w.per_token for model, w in models.items()},
        )
        for what, text in (
            ("prompt", "Tokens of prompts that models have written on or weighed."),
            ("computed", "Tokens of prompts that were computed; the others were found in a cache."),
            ("fetched", "Tokens of prompts whose KV came from another worker."),
            ("generated", "Tokens that models have written."),
        ):
            counts = {model: getattr(w, f"{what}_tokens") for model, w in models.items()}
            yield _counter(f"weft_{what}_tokens", text, ["model"], counts)

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
        yield _gauge(
            "weft_workers",
            "Workers that are there; 0 if the settings ask for one and there is none.",
            labels,
            there,
        )
        yield _counter("weft_worker_joins", "Workers that have joined.", labels, fleet.joins)
        yield _counter("weft_worker_losses", "Workers that were lost, or left.", labels, fleet.losses)
        tasks = self._orchestrator.shell.scheduler.in_flight()
        yield _gauge(
            "weft_worker_tasks",
            "Primitives that a worker has been given and has not done.",
            ["worker"],
            tasks,
        )
        yield from _of_caches(links)

    def _of_stores(self) -> Iterator[Metric]:
        results, journal = self._orchestrator.results.stats, self._orchestrator.keeping.usage()
        for what, text, count in (
            ("hits", "Results of equal work that were taken.", results.hits),
            ("misses", "Results of equal work that were looked for and not there.", results.misses),
            ("evictions", "Results that had to make room for others.", results.evictions),
        ):
            yield _counter(f"weft_result_cache_{what}", text, [], {(): count})
        for what, text, count in (
            ("entries", "Results that are kept for equal work.", results.entries),
            ("bytes", "Bytes of the results that are kept.", results.size),
        ):
            yield _gauge(f"weft_result_cache_{what}", text, [], {(): count})
        size, pending = journal or (0, 0)
        yield _gauge(
            "weft_journal_bytes",
            "Bytes of the journal of detached runs: of its file on the disk, or of what its database keeps.",
            [],
            {(): size},
        )
        yield _gauge(
            "weft_journal_pending_writes",
            "Writes to the journal that are not on the disk yet.",
            [],
            {(): pending},
        )
        sent, dropped = (self._traces.sent, self._traces.dropped) if self._traces else (0, 0)
        yield _counter("weft_spans_sent", "Spans that the collector of traces has taken.", [], {(): sent})
        yield _counter("weft_spans_dropped", "Spans that it has not, and that are lost.", [], {(): dropped})

    def _of_requests(self) -> Iterator[Metric]:
        count, seconds = self.requests.count, self.requests.seconds
        yield _counter(
            "weft_http_requests",
            "Requests over HTTP; status 499: the client went away before an answer.",
            ["route", "status"],
            count,
        )
        yield _histogram(
            "weft_http_request_duration_seconds",
            "Seconds from a request over HTTP to the end of the answer.",
            ["route"],
            seconds,
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
    yield _gauge(
        "weft_kv_tokens",
        "Tokens for which a worker's KV pool has room, by what is there.",
        [*labels, "state"],
        tokens,
    )
    yield _gauge("weft_engine_requests", "Requests in the engine of a model.", [*labels, "state"], requests)
    yield _gauge(
        "weft_engine_contexts", "Contexts that the engine of a model holds for runs.", labels, contexts
    )
    yield _counter(
        "weft_kv_pinned_tokens",
        "Tokens whose KV was to be kept on advice: they were used in time (met), or evicted (broken).",
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
