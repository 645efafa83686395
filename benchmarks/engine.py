"""How fast the LLM engine is beside others: same checkpoint, same greedy requests, same threads, in one run.

Engines (`--engines`): `weft`; `hosted`, weft on the modelling code of transformers; `transformers`, its
batched `generate`; `continuous`, its continuous batching; `llama.cpp` if `llama-cpp-python` and `gguf` are
installed, for one request at a time; `vllm` if `--vllm` says which Python has it, such as
``"env LD_PRELOAD=/opt/vllm/lib/libiomp5.so /opt/vllm/bin/python"``. Each runs in a process of its own, in
turn with the others; every repeat has new prompts, and the first one does not count.

Speed is in tokens per second: of output, and for `reading` of the prompt. Ratios are medians over repeats of
weft's speed to the other's. `same` is the share of output tokens that equal weft's up to the first that
differs: near-ties fall differently where sums are rounded differently. Run: ``weft bench engine``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import shlex
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from engines.arms import ARMS
from engines.loads import LOADS, Load, reply_to
from engines.models import SHAPES, write_random
from engines.process import Arm

ONE_AT_A_TIME = {"llama.cpp": ("single", "reading")}
"""The loads of an engine that is not given several requests."""


@dataclass(frozen=True, slots=True)
class Row:
    """One engine under one load."""

    load: str
    engine: str
    tokens_per_second: float  # median
    best: float
    weft_is_faster_by: float  # median over repeats
    same: float  # share of output tokens equal to weft's


def measure(load: str, arms: Sequence[Arm], vocab: int, repeats: int) -> list[Row]:
    """Let all arms do a load `repeats` times, in turn."""
    arms = [arm for arm in arms if load in ONE_AT_A_TIME.get(arm.name, LOADS)]
    speeds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    same: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for repeat in range(repeats + 1):
        rounds = LOADS[load].make(random.Random(repeat), vocab)
        first = repeat % len(arms)
        found = {arm.name: reply_to(rounds, arm.run) for arm in [*arms[first:], *arms[:first]]}
        for name, (seconds, tokens) in found.items():
            speeds[name].append(_work(LOADS[load], rounds) / seconds)
            same[name].append(_agreement(found["weft"][1], tokens))
    return [_row(load, name, speeds, same[name]) for name in speeds]


def _work(load: Load, rounds: Sequence[Sequence[Any]]) -> int:
    turns = [turn for turns in rounds for turn in turns]
    return sum(len(turn.ids) if load.counts_prompts else turn.answer for turn in turns)


def _agreement(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> float:
    equal = 0
    for left, right in zip(ours, theirs, strict=True):
        pairs = zip(left, right, strict=True)
        equal += next((index for index, (a, b) in enumerate(pairs) if a != b), len(left))
    return equal / sum(map(len, ours))


def _row(load: str, engine: str, speeds: Mapping[str, list[float]], same: Sequence[float]) -> Row:
    counted = speeds[engine][1:]
    ratios = [ours / theirs for ours, theirs in zip(speeds["weft"][1:], counted, strict=True)]
    return Row(
        load,
        engine,
        statistics.median(counted),
        max(counted),
        statistics.median(ratios),
        statistics.fmean(same),
    )


def show(rows: Sequence[Row]) -> None:
    """Print one load's table."""
    print(f"\n{rows[0].load}: {LOADS[rows[0].load].what}")
    print(f"{'':16}{'tokens/s':>10}{'best':>10}{'weft is':>10}{'same':>8}")
    for row in rows:
        ratio = f"{row.weft_is_faster_by:.2f} x"
        print(f"{row.engine:16}{row.tokens_per_second:10.0f}{row.best:10.0f}{ratio:>10}{row.same:8.0%}")


def machine() -> str:
    """The CPU, as far as it tells."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def available() -> list[str]:
    """The engines whose packages are installed here."""
    has_llama = all(importlib.util.find_spec(name) for name in ("llama_cpp", "gguf"))
    return [name for name in ARMS if name != "vllm" and (has_llama or name != "llama.cpp")]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="weft bench engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="tiny-llama", help=f"a checkpoint's folder, or random weights: {', '.join(SHAPES)}"
    )
    parser.add_argument("--engines", nargs="+", choices=ARMS, default=available())
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each engine")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vllm", metavar="PYTHON", help="the command of a Python that has vLLM for CPUs")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    if "weft" not in options.engines:
        options.engines.insert(0, "weft")
    if options.vllm and "vllm" not in options.engines:
        options.engines.append("vllm")
    if "vllm" in options.engines and not options.vllm:
        parser.error("--vllm must say which Python has vLLM")
    return options


def main() -> None:
    """Measure, print tables, and write JSON if asked to."""
    options = parse()
    with ExitStack() as stack:
        folder = Path(options.model)
        if options.model in SHAPES:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_random(options.model, folder)
        vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
        elsewhere = {"vllm": shlex.split(options.vllm or "")}
        arms = [
            stack.enter_context(Arm(name, folder, options.threads, elsewhere.get(name, ())))
            for name in options.engines
        ]
        print(f"{options.model}, float32, {machine()}, {options.threads} threads, {options.repeats} repeats")
        rows: list[Row] = []
        for load in options.loads:
            rows += measure(load, arms, vocab, options.repeats)
            show(rows[-len([row for row in rows if row.load == load]) :])
    if options.json:
        about = {"model": options.model, "machine": machine(), "threads": options.threads}
        about |= {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "repeats": options.repeats}
        options.json.write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
