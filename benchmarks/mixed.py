"""Schedulers that know programs beside such as do not, really: several workers of the reference model here.

Arms, each with a server of its own that begins with empty caches, in turn, several rounds:

- `weft`: programs as graphs, the default policies.
- `a`: no knowledge of applications: every call is sent when the one before is answered, first come first
  served, to the worker with the fewest calls.
- `b`: the strongest thing without a graph: the same calls, a run stays on its worker unless that has twice
  the mean load, programs first come first served.

Programs arrive as a Poisson process, the same at the same times in every arm, and write texts of forced
lengths, which must be equal in all arms. All workers share this machine's cores: so what is saved is reading
and waiting, and no worker is idle because another is busy. Run: ``weft bench mixed``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from workloads.arms import NO_KNOWLEDGE, SESSIONS
from workloads.loads import quantiles
from workloads.mixtures import SCENARIOS, Arrival, arrivals, starts
from workloads.servers import server

from weft import Client
from weft.runtime.scheduler.policies import Policies


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
    """The texts, and the seconds that each took, thinking left out."""
    start = starts(client, graph=arm.graph)
    began = time.perf_counter()

    async def one(arrival: Arrival) -> tuple[Any, float]:
        await asyncio.sleep(max(began + arrival.second - time.perf_counter(), 0.0))
        begun = time.perf_counter()
        text = await start[arrival.kind](*arrival.arguments)
        return text, time.perf_counter() - begun - arrival.thinking_s

    done = await asyncio.gather(*map(one, programs))
    return [text for text, _ in done], [seconds for _, seconds in done]


Times = dict[str, dict[str, list[float]]]
"""Seconds, by scenario and program, and by arm."""


def measure(scenarios: Sequence[str], rounds: int, seconds: float, workers: int) -> tuple[Times, list[float]]:
    """All arms in turn, so many rounds; and the load averages."""
    times: Times = defaultdict(lambda: defaultdict(list))
    expected: dict[str, list[Any]] = {}
    loads = []
    for number in range(rounds):
        for name in (*list(ARMS)[number % len(ARMS) :], *list(ARMS)[: number % len(ARMS)]):
            arm = ARMS[name]
            with (
                tempfile.TemporaryDirectory(prefix="weft-bench-", ignore_cleanup_errors=True) as folder,
                server(Path(folder), workers=workers, policies=arm.policies, prompt_lookup=False) as client,
            ):
                for scenario in scenarios:
                    programs = arrivals(scenario, seconds)
                    texts, taken = asyncio.run(run(client, arm, programs))
                    assert texts == expected.setdefault(scenario, texts), f"{name} gives other texts"
                    loads.append(os.getloadavg()[0])
                    for arrival, each in zip(programs, taken, strict=True):
                        times[f"{scenario}: {arrival.kind}"][name].append(each)
    return times, loads


def main() -> None:
    """Run the arms, print the table, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=4, help="of the model (4)")
    parser.add_argument("--rounds", type=int, default=3, help="of all arms (3)")
    parser.add_argument("--seconds", type=float, default=25.0, help="of arrivals in each scenario (25)")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="this; may be repeated")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    times, loads = measure(options.only or list(SCENARIOS), options.rounds, options.seconds, options.workers)
    print("load average", " ".join(f"{load:.1f}" for load in loads))
    table: dict[str, Any] = {}
    for row, arms in times.items():
        table[row] = found = {name: {"runs": len(arms[name])} | quantiles(arms[name]) for name in ARMS}
        mine = found["weft"]
        line = f"{row:32}{mine['runs']:5.0f} runs  weft mean {mine['mean']:.2f} s, P95 {mine['p95']:.2f} s"
        for name in ("a", "b"):
            line += f"  {name}/weft: " + " ".join(
                f"{quantile} {found[name][quantile] / mine[quantile]:.2f}"
                for quantile in ("mean", "p50", "p95", "p99")
            )
        print(line)
    if options.json:
        report = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
            "workers": options.workers,
            "load average": loads,
            "seconds": table,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
