"""What advice on KV saves: agents whose tools pause, beside calls that nobody continues, over a small cache.

The reference model here, whose pool holds less than all programs together read. Agents write, call a tool
that takes a while, and read its result behind all they have read before; meanwhile calls with prompts of
their own come, which a cache by last use keeps instead. Arms, in turn, each with a server of its own:

- `next_use`: workers are told when contexts are going to be wanted, and which are not any more.
- `liveness`: they are told for how long, but not from when on.
- `none`: what was used least recently goes first.

Counted are tokens that agents read again although they had been read: a busy machine changes them little.
Texts have forced lengths and must be equal in both arms. Run: ``weft bench advice``.
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
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final, NamedTuple

from workloads.nonsense import nonsense
from workloads.servers import server

from weft import Client, Context, Run, gen, program, tool
from weft.runtime.scheduler.policies import Policies

ARMS: Final = ("next_use", "liveness", "none")
STEPS: Final = 6


@tool
async def look_up(what: str, finding: str, seconds: float) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return finding


@program
async def agent(task: str, findings: list[str], pauses: list[float]) -> str:
    """Writes and looks things up in turn."""
    context = Context().user(task)
    said = ""
    for finding, seconds in zip(findings, pauses, strict=True):
        said = str(await context.gen(max_tokens=16, ignore_eos=True))
        context.user(str(await look_up(said, finding, seconds)))
    return said


@program
def call(prompt: str) -> str:
    """A call that stands alone."""
    return gen(prompt, max_tokens=8, ignore_eos=True)


class Work(NamedTuple):
    """What all arms do."""

    agents: Sequence[tuple[str, list[str], list[float]]]
    calls: Sequence[tuple[float, str]]  # when, and the prompt


def work(agents: int, pauses_s: Sequence[float], calls_per_s: float, seconds: float, seed: int) -> Work:
    """Agents that begin at once, whose tools take from so long to so long, and calls for so many seconds."""
    rng = random.Random(seed)
    tasks = [
        (
            nonsense(rng, 150),
            [nonsense(rng, rng.randint(20, 60)) for _ in range(STEPS)],
            [rng.uniform(*pauses_s) for _ in range(STEPS)],
        )
        for _ in range(agents)
    ]
    at, calls = 0.0, list[tuple[float, str]]()
    while (at := at + rng.expovariate(calls_per_s)) < seconds:
        calls.append((at, nonsense(rng, rng.randint(150, 300))))
    return Work(tasks, calls)


async def run(client: Client, work: Work) -> tuple[list[Run[str]], list[Run[str]], list[float]]:
    """The runs of the agents and of the calls, and the seconds that each agent took, pauses left out."""

    async def one(arguments: tuple[str, list[str], list[float]]) -> tuple[Run[str], float]:
        began = time.perf_counter()
        made = agent.using(client).submit(*arguments)
        await made.aresult()
        return made, time.perf_counter() - began - sum(arguments[2])

    async def later(at: float, prompt: str) -> Run[str]:
        await asyncio.sleep(at)
        made = call.using(client).submit(prompt)
        await made.aresult()
        return made

    agents = asyncio.gather(*map(one, work.agents))
    calls = asyncio.gather(*(later(*each) for each in work.calls))
    done = await agents
    return [made for made, _ in done], await calls, [seconds for _, seconds in done]


def tokens(runs: Sequence[Run[str]]) -> dict[str, int]:
    """What runs have read, in tokens."""
    tasks = [task for made in runs for task in made.explain().tasks.values()]
    return {
        "cached": sum(task.cached_tokens for task in tasks),
        "computed": sum(task.computed_tokens for task in tasks),
    }


def measured(client: Client, work: Work) -> tuple[list[str], dict[str, float]]:
    """The texts, and what reading took."""
    agents, calls, seconds = asyncio.run(run(client, work))
    (status,) = [state for state in client.describe().status.values() if state.kv_cached]
    texts = [made.result() for made in (*agents, *calls)]
    return texts, {
        **{f"agents {name}": count for name, count in tokens(agents).items()},
        **{f"calls {name}": count for name, count in tokens(calls).items()},
        "pins met": status.kv_pins_met,
        "pins broken": status.kv_pins_broken,
        "agent s": fmean(seconds),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Run the arms in turn, print what each has read, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of all arms, each with a seed (3)")
    parser.add_argument("--agents", type=int, default=6, help="at the same time (6)")
    parser.add_argument(
        "--pauses",
        type=float,
        nargs=2,
        default=(0.4, 1.2),
        metavar="S",
        help="of tools, from and to (0.4 1.2)",
    )
    parser.add_argument("--calls", type=float, default=4.0, help="that come in a second (4)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which they come (10)")
    parser.add_argument("--kv-tokens", type=int, default=6000, help="for which the worker has room (6000)")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in range(options.rounds):
        todo = work(options.agents, options.pauses, options.calls, options.seconds, seed)
        expected: list[str] = []
        for arm in ARMS if seed % 2 else reversed(ARMS):
            with (
                tempfile.TemporaryDirectory(prefix="weft-bench-", ignore_cleanup_errors=True) as folder,
                server(
                    Path(folder),
                    policies=Policies(advice=arm),
                    kv_tokens=options.kv_tokens,
                    prompt_lookup=False,
                ) as client,
            ):
                texts, row = measured(client, todo)
            expected = expected or texts
            assert texts == expected, f"{arm} gives other texts"
            rows[arm].append(row)
            print(f"seed {seed} {arm:9}", "  ".join(f"{k} {v:.2f}" for k, v in row.items()), flush=True)
    if options.json:
        report: dict[str, Any] = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
            "arguments": {k: str(v) for k, v in vars(options).items() if k != "json"},
            "arms": rows,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
