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
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from workloads.loads import quantiles
from workloads.nonsense import nonsense
from workloads.servers import server

from weft import Client, Context, gen, program
from weft.runtime.scheduler.policies import Policies

PARTS: Final = 8
TURNS: Final = 3
THINKS_S: Final = 0.4  # a user, between turns
FAMILIES: Final = 4
WEIGHTS: Final = (8, 4, 2, 1)  # of families


class Arm(NamedTuple):
    """A way to run programs."""

    graph: bool  # whether a program is known before it runs
    policies: Policies


ARMS: Final[Mapping[str, Arm]] = {
    "weft": Arm(True, Policies()),
    "a": Arm(False, Policies("fifo", "arrival", "none", "least_loaded", "everybody", "never")),
    "b": Arm(False, Policies("fifo", "arrival", "none", "sticky", "everybody", "never")),
}


@program
async def chat(question: str, more: list[str]) -> str:
    """Turns of a conversation with somebody who thinks between them: it is never known before."""
    context = Context().user(question)
    said = str(await context.gen(max_tokens=24, ignore_eos=True))
    for follow_up in more:
        await asyncio.sleep(THINKS_S)
        context.user(follow_up)
        said = str(await context.gen(max_tokens=24, ignore_eos=True))
    return said


def _part(chunk: str) -> Any:
    return gen(f"Summarize: {chunk}\nSummary:", max_tokens=16, ignore_eos=True)


def _whole(parts: Sequence[Any]) -> Any:
    text = parts[0]
    for part in parts[1:]:
        text = f"{text}\n{part}"
    return gen(f"Summaries:\n{text}\nTogether:", max_tokens=24, ignore_eos=True)


@program
def map_reduce(chunks: list[str]) -> str:
    """Summaries of parts, and one of these, as a graph."""
    whole: str = _whole([_part(chunks[number]) for number in range(PARTS)])
    return whole


@program
async def map_reduce_calls(chunks: list[str]) -> str:
    """The same, call by call."""
    parts = await asyncio.gather(*(_awaited(_part(chunk)) for chunk in chunks))
    return str(await _whole(parts))


async def _awaited(text: Awaitable[str]) -> str:
    return str(await text)


@program
def family(prompt: str, question: str) -> str:
    """A call of an application with a long prompt."""
    return gen(f"{prompt}\n\nQuestion: {question}\nAnswer:", max_tokens=16, ignore_eos=True)


class Arrival(NamedTuple):
    """A program, when it begins, and what is left out of its time."""

    kind: str
    second: float
    arguments: tuple[Any, ...]
    thinking_s: float = 0.0


def arrivals(scenario: str, seconds: float) -> list[Arrival]:
    """The programs of a scenario, by their times."""
    rng = random.Random(scenario)
    prompts = [nonsense(rng, 700) for _ in range(FAMILIES)]
    rates = {"chat": 0.6, "map_reduce": 0.4} if scenario == "chat + map-reduce" else {"family": 1.5}
    second, made = 0.0, list[Arrival]()
    while (second := second + rng.expovariate(sum(rates.values()))) < seconds:
        kind = rng.choices(list(rates), list(rates.values()))[0]
        if kind == "chat":
            more = [nonsense(rng, rng.randint(5, 30)) for _ in range(TURNS - 1)]
            made.append(Arrival(kind, second, (nonsense(rng, 40), more), THINKS_S * (TURNS - 1)))
        elif kind == "map_reduce":
            made.append(Arrival(kind, second, ([nonsense(rng, rng.randint(30, 70)) for _ in range(PARTS)],)))
        else:
            prompt = rng.choices(prompts, WEIGHTS)[0]
            made.append(Arrival(kind, second, (prompt, nonsense(rng, rng.randint(10, 40)))))
    return made


SCENARIOS: Final = ("chat + map-reduce", "four families")


async def run(client: Client, arm: Arm, programs: Sequence[Arrival]) -> tuple[list[str], list[float]]:
    """The texts, and the seconds that each took, thinking left out."""
    starts: Mapping[str, Callable[..., Awaitable[str]]] = {
        "chat": chat.using(client).ainvoke,
        "map_reduce": (map_reduce if arm.graph else map_reduce_calls).using(client).ainvoke,
        "family": family.using(client).ainvoke,
    }
    began = time.perf_counter()

    async def one(arrival: Arrival) -> tuple[str, float]:
        await asyncio.sleep(max(began + arrival.second - time.perf_counter(), 0.0))
        begun = time.perf_counter()
        text = await starts[arrival.kind](*arrival.arguments)
        return text, time.perf_counter() - begun - arrival.thinking_s

    done = await asyncio.gather(*map(one, programs))
    return [text for text, _ in done], [seconds for _, seconds in done]


Times = dict[str, dict[str, list[float]]]
"""Seconds, by scenario and program, and by arm."""


def measure(rounds: int, seconds: float, workers: int) -> tuple[Times, list[float]]:
    """All arms in turn, so many rounds; and the load averages."""
    times: Times = defaultdict(lambda: defaultdict(list))
    expected: dict[str, list[str]] = {}
    loads = []
    for number in range(rounds):
        for name in (*list(ARMS)[number % len(ARMS) :], *list(ARMS)[: number % len(ARMS)]):
            arm = ARMS[name]
            with (
                tempfile.TemporaryDirectory(prefix="weft-bench-", ignore_cleanup_errors=True) as folder,
                server(Path(folder), workers=workers, policies=arm.policies, prompt_lookup=False) as client,
            ):
                for scenario in SCENARIOS:
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
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    times, loads = measure(options.rounds, options.seconds, options.workers)
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
