"""What sharing KV between workers saves: families of long prompts, some asked for more often than others.

Several workers of the reference model on this machine. Prompts of a family begin with the same 2,000 tokens
or so; which family is asked next is drawn from a Zipf distribution. Every arm has a server of its own and
gets the same prompts, a fixed number at a time:

- `weft`: affinity, and KV fetched from other workers where that is cheaper than reading.
- `no transfer`: affinity alone; a worker that takes work from a holder reads the prompt itself.
- `sticky`, `least loaded`, `round robin`: placement without knowledge of prefixes.

Given for each: the tokens of prompts that were computed, and their ratio to the distinct ones; those that
came from another worker; the CPU time of the worker that had most, over the mean; and how many prompts were
answered in a second. The texts of all arms must be equal. Run: ``weft bench kv``.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from workloads.servers import server

from weft import Client, Run, gen, program
from weft.apps.instructions import ANSWER
from weft.apps.reference_model.world import Corpus
from weft.runtime.config import REFERENCE_MODEL
from weft.runtime.kv.radix import RadixTree
from weft.runtime.llm.chat import ChatMessage, ChatTemplate
from weft.runtime.llm.context import Context
from weft.runtime.llm.pieces import TextPiece
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.scheduler.policies import Policies

ARMS: Final[Mapping[str, Policies]] = {
    "weft": Policies(),
    "no transfer": Policies(transfer="never"),
    "sticky": Policies(placement="sticky", transfer="never"),
    "least loaded": Policies(placement="least_loaded", transfer="never"),
    "round robin": Policies(placement="round_robin", transfer="never"),
}
FIRST_WORLD: Final = 1_000
PASSAGES: Final = 30  # of a world: 2,000 tokens or so
SKEW: Final = 1.2  # the exponent of the Zipf distribution


class Prompt(NamedTuple):
    """What `answer` takes."""

    passages: str
    question: str


@program
def answer(passages: str, question: str) -> str:
    """Answer a question from numbered passages."""
    return gen(f"Passages:\n{passages}\n\nQuestion: {question}", system=ANSWER, max_tokens=16)


def prompts(families: int, count: int, seed: int) -> list[Prompt]:
    """Prompts of families drawn by rank; a family is what some passages of a world are asked about."""
    rng = random.Random(seed)
    worlds = [Corpus(FIRST_WORLD + number) for number in range(families)]
    passages = [_numbered(world) for world in worlds]
    weights = [1 / (rank + 1) ** SKEW for rank in range(families)]
    drawn = rng.choices(range(families), weights, k=count)
    return [Prompt(passages[family], rng.choice(worlds[family].questions).text) for family in drawn]


def _numbered(world: Corpus) -> str:
    return "\n".join(f"[{n}] {p.passage.text}" for n, p in enumerate(world.passages[:PASSAGES], 1))


def distinct_tokens(asked: Sequence[Prompt]) -> int:
    """How many tokens there are to read if nothing is read twice."""
    tokenizer, chat = Tokenizer.from_folder(REFERENCE_MODEL), ChatTemplate.from_folder(REFERENCE_MODEL)
    assert chat is not None
    tree = RadixTree()
    for passages, question in asked:
        context = Context.empty(tokenizer)
        user = f"Passages:\n{passages}\n\nQuestion: {question}"
        messages = [ChatMessage("system", (ANSWER,)), ChatMessage("user", (user,))]
        for piece in chat.render(messages, add_generation_prompt=True):
            assert isinstance(piece, TextPiece)  # there is no hole to fill
            context = context.append_text(piece.text, trusted=piece.trusted)
        tokens = np.asarray(context.ids(), dtype=np.int64)
        tree.insert("", tokens, tokens, 0.0)
    return tree.size


async def ask(client: Client, asked: Sequence[Prompt], at_once: int) -> tuple[list[Run[str]], float]:
    """Ask for all prompts, `at_once` at a time; the runs, and the seconds that they took together."""
    turns = asyncio.Semaphore(at_once)
    program = answer.using(client)

    async def one(prompt: Prompt) -> Run[str]:
        async with turns:
            run = program.submit(*prompt)
            await run.aresult()
            return run

    began = time.perf_counter()
    runs = await asyncio.gather(*map(one, asked))
    return runs, time.perf_counter() - began


def cpu_seconds(client: Client) -> list[float]:
    """The time of CPUs that each worker with a model has had so far."""
    pids = [w.pid for w in client.describe().workers if any(engine.kind == "llm" for engine in w.engines)]
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return [(int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK") for stat in stats]


def measured(client: Client, asked: Sequence[Prompt], at_once: int) -> tuple[list[str], dict[str, float]]:
    """The texts, and what reading the prompts took."""
    before = cpu_seconds(client)
    runs, seconds = asyncio.run(ask(client, asked, at_once))
    load = [after - start for start, after in zip(before, cpu_seconds(client), strict=True)]
    tasks = [task for run in runs for task in run.explain().tasks.values()]
    computed = sum(task.computed_tokens for task in tasks)
    return [run.result() for run in runs], {
        "computed": computed,
        "computed/distinct": computed / distinct_tokens(asked),
        "fetched": sum(task.fetched_tokens for task in tasks),
        "max/mean load": max(load) * len(load) / sum(load),
        "prompts/s": len(asked) / seconds,
    }


def main() -> None:
    """Run the arms, print the table, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=4, help="of the model (4)")
    parser.add_argument("--families", type=int, default=8, help="beginnings of prompts (8)")
    parser.add_argument("--prompts", type=int, default=160, help="in each arm (160)")
    parser.add_argument("--at-once", type=int, default=16, help="prompts that are asked for at a time (16)")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts (1)")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="only this; may be repeated")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "load average before": os.getloadavg()[0],
        **{name: getattr(options, name) for name in ("workers", "families", "prompts", "at_once", "seed")},
    }
    print(", ".join(f"{key} {value}" for key, value in report.items()))
    asked = prompts(options.families, options.prompts, options.seed)
    report["distinct"] = distinct_tokens(asked)
    print(f"distinct tokens {report['distinct']}\n")
    expected: list[str] = []
    table: dict[str, dict[str, float]] = {}
    report["arms"] = table
    for name in options.arm or ARMS:
        with (
            tempfile.TemporaryDirectory(prefix="weft-bench-", ignore_cleanup_errors=True) as folder,
            server(Path(folder), workers=options.workers, policies=ARMS[name]) as client,
        ):
            texts, row = measured(client, asked, options.at_once)
        expected = expected or texts
        assert texts == expected, f"{name} gives other texts"
        if not table:
            print(f"{'':14}" + "".join(f"{column:>19}" for column in row))
        table[name] = row
        print(f"{name:14}" + "".join(f"{value:19.2f}" for value in row.values()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
