"""Schedulers that know programs beside such as do not, really: several workers of one model on one machine.

Arms, each with a server of its own that begins with empty caches, in turn, several rounds behind one that is
not counted:

- `weft`: programs as graphs, the default policies.
- `a`: no knowledge of applications: every call is sent when the one before is answered, first come first
  served, to the worker with the fewest calls.
- `b`: the strongest thing without a graph: the same calls, a run stays on its worker unless that has twice
  the mean load, programs first come first served.

Programs arrive as a Poisson process, the same at the same times in every arm, and write texts of forced
lengths; users who think and the tools of agents sleep, which is no time of a program. The reference model's
texts must be equal in all arms. By default all workers share this machine's cores: so what is saved is
reading and waiting, and no worker is idle because another is busy. For a machine with several GPUs,
`--shape` serves random weights of a known shape in bfloat16, a worker on each, and `--scale` makes texts as
long as people's; as steps of other sizes round otherwise there, it is told how many differed.

Run: ``weft bench mixed``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from comparison import shapes
from engines.models import SHAPES
from workloads.arms import NO_KNOWLEDGE, SESSIONS
from workloads.loads import quantiles
from workloads.mixtures import SCENARIOS, Arrival, arrivals, starts
from workloads.servers import server

from weft import Client
from weft.runtime.config import REFERENCE_MODEL
from weft.runtime.scheduler.policies import Policies

_WARM_UP_S: Final = 3.0  # of arrivals


class Arm(NamedTuple):
    """A way to run programs."""

    graph: bool  # whether a program is known before it runs
    policies: Policies


ARMS: Final[Mapping[str, Arm]] = {
    "weft": Arm(True, Policies()),
    "a": Arm(False, NO_KNOWLEDGE),
    "b": Arm(False, SESSIONS),
}


async def run(client: Client, arm: Arm, programs: Sequence[Arrival]) -> tuple[list[Any], list[float]]:
    """The texts, and the seconds that each took, thinking and tools left out."""
    start = starts(client, graph=arm.graph)
    began = time.perf_counter()

    async def one(arrival: Arrival) -> tuple[Any, float]:
        await asyncio.sleep(max(began + arrival.second - time.perf_counter(), 0.0))
        begun = time.perf_counter()
        text = await start[arrival.kind](*arrival.arguments)
        return text, time.perf_counter() - begun - arrival.asleep_s

    done = await asyncio.gather(*map(one, programs))
    return [text for text, _ in done], [seconds for _, seconds in done]


class Load(NamedTuple):
    """What the arms are asked."""

    scenarios: Sequence[str]
    seconds: float  # of arrivals
    scale: int = 1  # of lengths
    rate: float = 1.0  # a multiple of programs a second


class Place(NamedTuple):
    """Where the arms run."""

    model: Path = REFERENCE_MODEL
    workers: int = 4
    kv_tokens: int | None = None  # of each; as many as there is memory for
    host_kv_tokens: int | None = None  # of each besides; as many as a server chooses


Times = dict[str, dict[str, list[float]]]
"""Seconds, by scenario and program, and by arm."""


class Measured(NamedTuple):
    """What was found."""

    times: Times
    differed: dict[str, int]  # runs of each arm whose texts were not those of the first
    loads: list[float]  # averages of the machine


def measure(load: Load, place: Place, rounds: int, names: Sequence[str]) -> Measured:
    """Arms in turn, so many rounds, after one that does not count, so that none compiles for the others.

    Raises AssertionError if the reference model's texts differ.
    """
    with _served(place, ARMS["weft"]) as client:
        for scenario in load.scenarios:
            programs = arrivals(scenario, min(load.seconds, _WARM_UP_S), load.scale, load.rate)
            asyncio.run(run(client, ARMS["weft"], programs))
    found = Measured(defaultdict(lambda: defaultdict(list)), dict.fromkeys(names, 0), [])
    expected: dict[str, list[Any]] = {}
    for number in range(rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            arm = ARMS[name]
            with _served(place, arm) as client:
                for scenario in load.scenarios:
                    programs = arrivals(scenario, load.seconds, load.scale, load.rate)
                    print(f"round {number + 1}, {name}: {len(programs)} × {scenario}", file=sys.stderr)
                    texts, taken = asyncio.run(run(client, arm, programs))
                    pairs = zip(texts, expected.setdefault(scenario, texts), strict=True)
                    differed = sum(text != first for text, first in pairs)
                    assert not differed or place.model != REFERENCE_MODEL, f"{name} gives other texts"
                    found.differed[name] += differed
                    found.loads.append(os.getloadavg()[0])
                    for arrival, each in zip(programs, taken, strict=True):
                        found.times[f"{scenario}: {arrival.kind}"][name].append(each)
    return found


@contextmanager
def _served(place: Place, arm: Arm) -> Iterator[Client]:
    with (
        tempfile.TemporaryDirectory(prefix="weft-bench-", ignore_cleanup_errors=True) as folder,
        server(
            Path(folder),
            model=place.model,
            workers=place.workers,
            kv_tokens=place.kv_tokens,
            host_kv_tokens=place.host_kv_tokens,
            policies=arm.policies,
            prompt_lookup=False,
        ) as client,
    ):
        yield client


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=4, help="of the model (4)")
    parser.add_argument("--rounds", type=int, default=3, help="of all arms (3)")
    parser.add_argument("--seconds", type=float, default=25.0, help="of arrivals in each scenario (25)")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="this; may be repeated")
    parser.add_argument("--against", action="append", choices=["a", "b"], help="this; may be repeated (both)")
    parser.add_argument("--scale", type=int, default=1, help="lengths of all texts, as a multiple (1)")
    parser.add_argument("--rate", type=float, default=1.0, help="programs a second, as a multiple (1)")
    parser.add_argument("--kv-tokens", type=int, help="of each worker (as many as there is memory for)")
    parser.add_argument(
        "--host-kv-tokens", type=int, help="of each worker's machine besides (on a GPU as many again)"
    )
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape, in bfloat16")
    parser.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="keep what --shape draws there, or take it from there"
    )
    parser.add_argument("--json", type=Path, help="write the results there, too")
    return parser.parse_args()


def _measured(options: argparse.Namespace) -> Measured:
    load = Load(options.only or list(SCENARIOS), options.seconds, options.scale, options.rate)
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
        model = REFERENCE_MODEL
        if options.shape:
            model = shapes.written(options.shape, options.weights or Path(folder))
        place = Place(model, options.workers, options.kv_tokens, options.host_kv_tokens)
        return measure(load, place, options.rounds, _arms(options))


def _arms(options: argparse.Namespace) -> list[str]:
    return ["weft", *(options.against or ["a", "b"])]


def _machine() -> str:
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return machine


def main() -> None:
    """Run the arms, print the table, and write it."""
    options = _options()
    found = _measured(options)
    print("load average", " ".join(f"{load:.1f}" for load in found.loads))
    print("runs with other texts than the first had:", found.differed)
    table: dict[str, Any] = {}
    for row, arms in found.times.items():
        table[row] = of = {name: {"runs": len(taken)} | quantiles(taken) for name, taken in arms.items()}
        mine = of["weft"]
        line = f"{row:32}{mine['runs']:5.0f} runs  weft mean {mine['mean']:.2f} s, P95 {mine['p95']:.2f} s"
        for name in _arms(options)[1:]:
            line += f"  {name}/weft: " + " ".join(
                f"{quantile} {of[name][quantile] / mine[quantile]:.2f}"
                for quantile in ("mean", "p50", "p95", "p99")
            )
        print(line)
    if options.json:
        report = {
            "command": shlex.join(["weft", "bench", "mixed", *sys.argv[1:]]),
            "machine": _machine(),
            "date": time.strftime("%Y-%m-%d"),
            "workers": options.workers,
            "load average": found.loads,
            "differed": found.differed,
            "seconds": table,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
