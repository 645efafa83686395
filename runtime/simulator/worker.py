"""A model of a worker: tasks start when their operands are there, on models of its engines."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

from weft.graph.ops.primitive import Prefill
from weft.runtime.kv.advice import Dead, Pin
from weft.runtime.scheduler.events import EngineSpec, Usage
from weft.runtime.scheduler.faults import Fault
from weft.runtime.scheduler.primitive import Primitive

from .batches import BatchModel, Call, DelayModel
from .cache import CacheModel, Path
from .clock import Clock
from .exchange import NOTHING, Borrowed, ExchangeModel, Loan
from .link import Port
from .llm import Job, LlmModel
from .profiles import BatchProfile, LlmProfile
from .runs import LiveProgram

__all__ = ["KvSource", "Report", "SimWorker", "Stat", "Task"]


@dataclass(slots=True)
class Stat:
    """How a task was carried out, in seconds and tokens."""

    started: float
    finished: float
    first_token: float = -1.0
    path: Path = ()  # of the prompt
    written_path: Path = ()  # of the prompt with what was written
    cached: float = 0.0
    fetched: float = 0.0  # of the cached ones: from another worker
    computed: float = 0.0
    written: int = 0
    program: str = ""  # its name, and that
    worker: str = ""  # of who did it


class KvSource(NamedTuple):
    """Where a task finds KV that its worker lacks."""

    worker: SimWorker
    wait_s: float  # for a worker that is still reading it


@dataclass(eq=False, slots=True)
class Task:
    """One attempt of one primitive."""

    program: LiveProgram
    primitive: Primitive
    attempt: int
    missing: set[int] = field(default_factory=set)  # nodes whose results are still to come
    source: KvSource | None = None
    since: float = 0.0  # from when on it counts as waiting
    began: float = 0.0
    borrowed: Borrowed = NOTHING
    work: Loan | Job | Call | None = None

    @property
    def number(self) -> int:
        """The node's id."""
        return self.primitive.node.id


NO_SOURCES: Final[Mapping[int, KvSource]] = MappingProxyType({})

Report = Callable[["Task", Stat | Fault | None, Usage | None], None]


class SimWorker:
    """A worker with the engines that its profiles say."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        report: Report,
        *,
        llms: Sequence[LlmProfile] = (),
        batches: Sequence[BatchProfile] = (),
        tools: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """`seed`: of what is drawn where a profile has a spread."""
        self.name = name
        self.specs = (
            *(profile.spec for profile in llms),
            *(profile.spec for profile in batches),
            *(EngineSpec("tool", tool) for tool in tools),
        )
        self.llms = {
            profile.name: LlmModel(profile, clock, f"{seed}/{name}/{profile.name}") for profile in llms
        }
        port = Port(max((profile.link_bytes_per_ms for profile in llms), default=0.0))
        self.exchanges = {name: ExchangeModel(model, port, clock) for name, model in self.llms.items()}
        self.others: dict[str, BatchModel | DelayModel] = {
            profile.kind: BatchModel(profile, clock) for profile in batches
        }
        if tools:
            self.others["tool"] = DelayModel(clock)
        self._clock = clock
        self._report = report
        self._tasks: dict[str, dict[int, Task]] = {}  # by run and node
        self._waiting: dict[str, list[Task]] = {}  # by run

    @property
    def busy_s(self) -> float:
        """Seconds that its engines have computed."""
        return sum(model.busy_s for model in (*self.llms.values(), *self.others.values()))

    @property
    def retractions(self) -> int:
        """Requests that its language models had to set back."""
        return sum(model.retractions for model in self.llms.values())

    # ---- what the orchestrator sends

    def take(
        self,
        program: LiveProgram,
        tasks: Sequence[tuple[Primitive, int]],
        known: set[int],
        sources: Mapping[int, KvSource] = NO_SOURCES,
        head_start: float = 0.0,
    ) -> None:
        """Take a fragment. `known`: nodes of the run whose results came with it; `sources`: of some nodes.

        `head_start`: seconds that it counts as having waited.
        """
        since = self._clock.now - head_start
        here = program.made_at(self.name)
        mine = self._tasks.setdefault(program.id, {})
        for primitive, attempt in tasks:
            missing = {node for node in primitive.producers if node not in known and node not in here}
            task = mine[primitive.node.id] = Task(
                program, primitive, attempt, missing, sources.get(primitive.node.id), since
            )
            self._waiting.setdefault(program.id, []).append(task)
        self._start_ready(program)

    def cancel(self, run: str, nodes: Sequence[int]) -> None:
        """Stop tasks of a run: these, or all."""
        mine = self._tasks.get(run, {})
        for task in [task for number, task in mine.items() if not nodes or number in nodes]:
            self._drop(task)
            match task.work:
                case Loan() as loan:
                    self.exchanges[task.primitive.key.model].cancel(loan)
                case Job() as job:
                    self.llms[task.primitive.key.model].cancel(job)
                case Call() as call:
                    self.others[task.primitive.key.kind].cancel(call)
            task.work = None

    def close(self) -> None:
        """The worker is gone, and with it what it was to send to others. Its tasks have been cancelled."""
        for exchange in self.exchanges.values():
            exchange.close()

    def release(self, program: LiveProgram, nodes: Sequence[int], dead: Container[int] = ()) -> None:
        """Drop the contexts that these nodes have made; what is `dead` may be evicted before all else.

        Raises ValueError for one that is not held.
        """
        here = program.made_at(self.name)
        for node in sorted(nodes, reverse=True):  # who continues a context comes after it
            path = program.paths.pop(node, None) if node in here else None
            if path is None:
                raise ValueError(f"{self.name} holds no context {node} of {program.id}")
            if node in dead:
                self._cache_of(program, node).advise(path, Dead(program.head(node)), self._clock.now)

    def advise(self, program: LiveProgram, node: int, pin: Pin) -> None:
        """Keep the context that a node has made, if it is still held."""
        path = program.paths.get(node)
        if path is not None:
            self._cache_of(program, node).advise(path, pin, self._clock.now)

    def _cache_of(self, program: LiveProgram, node: int) -> CacheModel:
        return self.llms[program.nodes[node].key.model].cache

    def _drop(self, task: Task) -> None:
        mine = self._tasks[task.program.id]
        del mine[task.number]
        if not mine:
            del self._tasks[task.program.id]
        waiting = self._waiting.get(task.program.id)
        if waiting is not None and task in waiting:
            waiting.remove(task)
            if not waiting:
                del self._waiting[task.program.id]

    # ---- tasks

    def _start_ready(self, program: LiveProgram) -> None:
        waiting = self._waiting.get(program.id, [])
        while (task := next((task for task in waiting if not task.missing), None)) is not None:
            waiting.remove(task)  # before it starts, as it may end at once and let others start
            self._start(task)
        if not waiting:
            self._waiting.pop(program.id, None)

    def _start(self, task: Task) -> None:
        task.began = self._clock.now
        if task.primitive.key.kind == "llm":
            self._start_llm(task)
            return
        truth = task.program.truth(task.number)
        call = task.work = Call(partial(self._call_done, task), truth.items, truth.ms)
        self.others[task.primitive.key.kind].submit(call)

    def _start_llm(self, task: Task) -> None:
        program, primitive = task.program, task.primitive
        truth = program.truth(task.number)
        path = program.path(primitive)
        if isinstance(primitive.node.op, Prefill):
            program.paths[task.number] = path
            follower = self._continued_by(task)
            if follower is not None:
                follower.source = task.source
                self._finish(task, Stat(self._clock.now, self._clock.now), None)
                return
        model = self.llms[primitive.key.model]
        longest = path[-1].tokens + truth.options + truth.writes
        if longest > model.profile.kv_slots:
            self._drop(task)
            message = f"the request needs {longest:.0f} tokens of KV, the pool has {model.profile.kv_slots}"
            self._report(task, Fault("too_large", message), None)
            return
        source = task.source
        lender = source.worker.exchanges[primitive.key.model] if source is not None else None
        wait_s = source.wait_s if source is not None else 0.0
        borrowing = self.exchanges[primitive.key.model].borrow(
            path, lender, wait_s, partial(self._read, task, path)
        )
        if not borrowing.over:
            task.work = borrowing

    def _read(self, task: Task, path: Path, borrowed: Borrowed) -> None:
        """Let the model read a prompt, whatever has come of it."""
        task.borrowed = borrowed
        program, primitive = task.program, task.primitive
        truth = program.truth(task.number)
        job = task.work = Job(
            path=path,
            done=partial(self._job_done, task),
            begun=lambda job: self._report(task, None, None),
            writes=truth.writes,
            expected=primitive.forecast.writes,
            written_path=program.path(primitive, written=True) if truth.writes else (),
            options=truth.options,
            priority=program.program.priority,
            head_start=self._clock.now - task.since,
        )
        self.llms[primitive.key.model].submit(job)

    def _continued_by(self, task: Task) -> Task | None:
        """What continues this prefill and waits for nothing else: it computes these tokens too."""
        waiting = self._waiting.get(task.program.id, ())
        follows = (t for t in waiting if t.missing == {task.number} and t.primitive.context == task.number)
        return next(follows, None)

    def _job_done(self, task: Task, job: Job) -> None:
        if job.writes:
            task.program.paths[task.number] = job.written_path
        stat = Stat(
            started=task.began,
            finished=job.finished,
            first_token=job.first_token,
            path=job.path,
            written_path=job.written_path,
            cached=job.cached,
            fetched=task.borrowed.tokens,
            computed=job.computed,
            written=job.writes,
            program=task.program.program.name,
            worker=self.name,
        )
        fetched, fetch_ms = round(task.borrowed.tokens), task.borrowed.seconds * 1e3
        usage = Usage(round(job.cached), round(job.computed), job.writes, fetched, fetch_ms)
        self._finish(task, stat, usage)

    def _call_done(self, task: Task, call: Call) -> None:
        self._finish(task, Stat(call.started, self._clock.now), None)

    def _finish(self, task: Task, stat: Stat, usage: Usage | None) -> None:
        self._drop(task)
        task.work = None  # they name each other: so they need not wait for the collector
        task.program.made_at(self.name).add(task.number)
        self._report(task, stat, usage)
        for waiting in self._waiting.get(task.program.id, ()):
            waiting.missing.discard(task.number)
        self._start_ready(task.program)
