"""The simulator against the embedded runtime: the same programs, measured and simulated.

What a worker takes is measured with single calls, alone and a few at once; the programs that are compared are
others: a chain, a map-reduce and a RAG flow, each at a low and a high rate. As other work on the machine
slows both, calls and programs are recorded by turns, and the load average is noted beside each. How unevenly
the machine computes is measured from the single calls, too; the simulated times are those of several
simulations of the same runs, each of which draws from it anew.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weft import Client, Run, Static, gen, program, search
from weft.apps.reference_model.corpus import documents, questions
from weft.frontend.client import embedded
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.config import REFERENCE_MODEL, ModelSettings, Settings
from weft.runtime.orchestrator.profiles import costs_of
from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.simulator.profiles import LlmProfile
from weft.runtime.simulator.recording import arrivals_of
from weft.runtime.simulator.served import as_served, batches_of, delays_of
from weft.runtime.simulator.simulation import Delays, Simulation
from weft.runtime.simulator.worker import SimWorker

from .modules import INDEX, store
from .nonsense import nonsense

if TYPE_CHECKING:
    from weft.proto.orchestrator_pb2_grpc import OrchestratorAsyncStub

__all__ = ["calibrate"]

LENGTHS: Final = (8, 16, 32, 48)  # of single calls, in tokens
AT_ONCE: Final = (1, 1, 1, 1, 2, 4, 6)  # single calls
RATES: Final = (0.7, 1.5)  # runs a second
RUNS: Final = 8  # of a program, between two measurements
ROUNDS: Final = 3
TIMES: Final = 20  # that each run is simulated, with other draws


@program
def call(text: str, tokens: Static[int]) -> str:
    """One text of so many tokens."""
    return gen(f"Write on: {text}", max_tokens=tokens, ignore_eos=True)


@program
def chain(chunks: list[str]) -> str:
    """A summary that is taken on from chunk to chunk."""
    summary = ""
    for number in range(5):
        summary = gen(
            f"Summary so far: {summary}\nNext part: {chunks[number]}\nSummary:",
            max_tokens=16,
            ignore_eos=True,
        )
    return summary


@program
def map_reduce(chunks: list[str]) -> str:
    """Six summaries at once, and one of these."""
    parts = [
        gen(f"Summarize: {chunks[number]}\nSummary:", max_tokens=16, ignore_eos=True) for number in range(6)
    ]
    listed = f"{parts[0]}\n{parts[1]}\n{parts[2]}\n{parts[3]}\n{parts[4]}\n{parts[5]}"
    return gen(f"Summaries:\n{listed}\nTogether:", max_tokens=24, ignore_eos=True)


@program
def rag(question: str) -> str:
    """An answer from the best passage, refined with the next two."""
    found = search(INDEX, question, k=3)
    answer = gen(f"Passage: {found[0].text}\nQuestion: {question}\nAnswer:", max_tokens=16, ignore_eos=True)
    for place in (1, 2):
        answer = gen(
            f"Question: {question}\nAnswer: {answer}\nPassage: {found[place].text}\nBetter answer:",
            max_tokens=16,
            ignore_eos=True,
        )
    return answer


Starts = Callable[[random.Random], Run[str]]
"""Starts a program with arguments of its own."""


class Runtime:
    """The embedded runtime, with one model on the CPU."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._call = call.using(client)
        asked = [question.text for question in questions()]
        linked, reduced, found = chain.using(client), map_reduce.using(client), rag.using(client)
        self.programs: Mapping[str, Starts] = {
            "chain": lambda rng: linked.submit([nonsense(rng, rng.randint(20, 60)) for _ in range(5)]),
            "map-reduce": lambda rng: reduced.submit([nonsense(rng, rng.randint(20, 60)) for _ in range(6)]),
            "RAG": lambda rng: found.submit(f"{rng.choice(asked)} {nonsense(rng, rng.randint(1, 3))}"),
        }
        store.using(client).invoke(documents())
        rng = random.Random(0)
        for start in self.programs.values():
            start(rng).result()
        for tokens in LENGTHS:
            self._call.invoke("nothing", tokens)

    @property
    def llm(self) -> LlmProfile:
        """What the worker measured its model to do when it started."""
        (llm,) = [e for w in self._client.describe().workers for e in w.engines if e.kind == "llm"]
        costs = costs_of(llm.llm.profile)
        assert costs is not None, "the worker has measured its model"
        return LlmProfile(costs, llm.llm.kv_slots, token_budget=512, max_running=64)

    def calls(self, rng: random.Random) -> list[pb.RunInfo]:
        """Single calls, alone and at once; those that are made at once write equally much."""
        made: list[Run[str]] = []
        for count in AT_ONCE:
            tokens, least, most = rng.choice(LENGTHS), *((3, 150) if count == 1 else (10, 60))
            runs = [self._call.submit(nonsense(rng, rng.randint(least, most)), tokens) for _ in range(count)]
            made += [run for run in runs if run.result()]
        return self._infos(made)

    def runs(self, name: str, rate: float, rng: random.Random) -> list[pb.RunInfo]:
        """Runs of a program, so many a second in the mean (Poisson)."""
        runs = []
        for _ in range(RUNS):
            time.sleep(rng.expovariate(rate))
            runs.append(self.programs[name](rng))
        return self._infos([run for run in runs if run.result()])

    def _infos(self, runs: Sequence[Run[str]]) -> list[pb.RunInfo]:
        return [self._client.call(partial(_info, run=run.id)) for run in runs]


async def _info(stub: OrchestratorAsyncStub, run: str) -> pb.RunInfo:
    """What the server says of a run that is over."""
    async for events in stub.Watch(pb.WatchRequest(run=run)):
        for event in events.events:
            if event.HasField("finished"):
                return event.finished.info
    raise AssertionError("the run has no end")


@contextmanager
def runtime() -> Iterator[Runtime]:
    """The embedded runtime, started for this."""
    with tempfile.TemporaryDirectory() as folder:
        # A simulated worker writes a token of each text a step.
        models = [ModelSettings(path=str(REFERENCE_MODEL), device="cpu", prompt_lookup=False)]
        settings = Settings(models=models, data=Path(folder), profile_s=4.0, result_cache_mb=0)
        try:
            yield Runtime(Client(embedded.start(settings)))
        finally:
            embedded.stop()


def simulated(runs: Sequence[pb.RunInfo], llm: LlmProfile, delays: Delays, seed: int) -> list[float]:
    """The seconds that each of these runs takes in the simulator."""
    simulation = Simulation(Scheduler(), delays)
    simulation.join(partial(SimWorker, "w", llms=[llm], batches=batches_of(runs), seed=seed))
    outcome = simulation.run(arrivals_of(runs, llm.costs))
    assert len(outcome.runs) == len(runs)
    return [run.finished - run.started for run in outcome.runs]


class Segment(NamedTuple):
    """Runs that were recorded one after the other."""

    program: str
    rate: float
    runs: list[pb.RunInfo]
    load: float  # average of the last minute


def record(rounds: int) -> tuple[LlmProfile, list[pb.RunInfo], list[Segment]]:
    """The profile of the model, single calls, and runs of the programs between them."""
    rng = random.Random(1)
    with runtime() as real:
        calls = real.calls(rng)
        segments = []
        for _ in range(rounds):
            for rate in RATES:
                for name in real.programs:
                    runs = real.runs(name, rate, rng)
                    segments.append(Segment(name, rate, runs, os.getloadavg()[0]))
                    calls += real.calls(rng)
        return real.llm, calls, segments


def calibrate(share: float) -> dict[str, Any]:
    """Job completion times as measured and as simulated, by program and rate, and of all runs together."""
    idle, calls, segments = record(max(round(ROUNDS * share), 1))
    llm, delays = as_served(calls, idle), delays_of(calls)
    real: dict[str, list[float]] = defaultdict(list)
    virtual: dict[str, list[float]] = defaultdict(list)
    seeds = itertools.count()
    for segment in segments:
        modelled = [simulated(segment.runs, llm, delays, next(seeds)) for _ in range(TIMES)]
        for name in (f"{segment.program}, {segment.rate}/s", "all"):
            real[name] += [run.seconds for run in segment.runs]
            virtual[name] += itertools.chain(*modelled)
    found: dict[str, Any] = {"load average": [segment.load for segment in segments]}
    print("load average", " ".join(f"{load:.1f}" for load in found["load average"]))
    for name in real:
        found[name] = row = _compared(real[name], virtual[name])
        print(f"{name:18}", json.dumps({key: round(value, 3) for key, value in row.items()}), flush=True)
    terms = {
        "reading": llm.costs.prefill_terms,
        "steps": llm.step_ms,
        "prompt": llm.prompt_ms,
        "after a prompt": llm.after_prompt_ms,
    }
    found["spread"] = asdict(llm.spread) if llm.spread is not None else None
    return found | {"served, in ms": terms, "hop_s": delays.hop_s, "run_s": delays.run_s}


def _compared(real: Sequence[float], virtual: Sequence[float]) -> dict[str, float]:
    row = {"runs": float(len(real))}
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        measured, modelled = (sorted(each)[math.ceil(share * len(each)) - 1] for each in (real, virtual))
        row |= {f"real {name}": measured, f"simulated {name}": modelled, f"{name} ratio": modelled / measured}
    return row
