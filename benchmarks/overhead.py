"""What orchestration costs.

`steps`: a chain of 10 steps that do nothing, and a fan-out of 100 with one that joins them; microseconds a
step. Everything in one run, the arms in turn:

- `weft, server tools`: client, orchestrator and worker are three processes that speak gRPC over loopback.
- `weft, client tools`: the same, but every step runs in the client, which the server asks to.
- `grpc alone`: the messages of both, between processes that only give them back: their floor on this machine.
- `asyncio`: coroutines and tasks and nothing else, in this process: the floor.
- LangGraph, LlamaIndex workflows, Haystack: as their documentation writes such graphs, in this process.

`texts`: the same greedy texts from the LLM engine alone, in this process, and through the whole of weft, with
the reference model unless --model names another. Ratios above 1 are what orchestration costs.

`rag`: the bundled advanced RAG with that model: how much of an answer's time passes while no engine or tool
is at work on its critical path (`workloads/rag.py`).

Run: ``make bench``, or ``make bench ARGS=--steps``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from workloads import echo, frameworks, noop, rag, texts

from weft import Client
from weft.frontend.client.portal import Portal
from weft.runtime.config import REFERENCE_MODEL, ModelSettings, Settings
from weft.runtime.layout import ServerLayout
from weft.runtime.supervisor import Supervisor

WARM_UP: Final = 10  # rounds of steps
INSTALL: Final = "pip install 'weft[bench]'"

Table = Mapping[str, Mapping[str, float]]


@contextmanager
def server(model: Path | None) -> Iterator[Client]:
    """A server at a TCP port of this machine, with the tools of `noop` and perhaps a model."""
    folder = Path(tempfile.mkdtemp(prefix="weft-bench-"))
    settings = Settings(
        models=[ModelSettings(path=str(model))] if model else [],
        tools=noop.TOOLS,
        import_paths=[Path(__file__).parent],
        data=folder,
    )
    loop = Portal("weft-bench")
    supervisor = Supervisor(ServerLayout(settings, "127.0.0.1:0"))
    client = Client(loop.call(supervisor.start))
    try:
        yield client
    finally:
        client.close()
        loop.call(supervisor.stop)
        shutil.rmtree(folder, ignore_errors=True)


def arms(client: Client) -> dict[str, noop.Arm]:
    """Every way of running the steps, by name."""
    found = {
        "weft, server tools": noop.server_tools(client),
        "weft, client tools": noop.client_tools(client),
        "asyncio": noop.plain_asyncio(),
    }
    return found | {
        name: frameworks.arm(name) for name in frameworks.FRAMEWORKS if frameworks.installed(name)
    }


async def steps(runners: Mapping[str, noop.Arm], repeats: int) -> Table:
    """Median microseconds a step of each arm. Raises AssertionError if a result is wrong."""
    chains: dict[str, list[float]] = {name: [] for name in runners}
    fan_outs: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(WARM_UP + repeats):
        for name, arm in runners.items():
            began = time.perf_counter()
            passed = await arm.chain(f"x{number}")
            between = time.perf_counter()
            counted = await arm.fan_out(f"x{number}")
            ended = time.perf_counter()
            assert (passed, counted) == (f"x{number}", str(noop.FAN_OUT)), name
            chains[name].append((between - began) * 1e6 / noop.CHAIN)
            fan_outs[name].append((ended - between) * 1e6 / (noop.FAN_OUT + 1))
    return {
        name: {
            "chain": statistics.median(chains[name][WARM_UP:]),
            "fan-out": statistics.median(fan_outs[name][WARM_UP:]),
        }
        for name in runners
    }


def show(title: str, columns: Sequence[str], table: Table, form: str) -> None:
    """Print a table."""
    print(f"\n{title}\n{'':24}" + "".join(f"{column:>12}" for column in columns))
    for name, row in table.items():
        print(f"{name:24}" + "".join(f"{row[column]:12{form}}" for column in columns))


def measure_steps(client: Client, repeats: int) -> Table:
    """The table of the steps, printed, with what is missing."""
    with echo.arms() as floors:
        found = asyncio.run(steps(arms(client) | floors, repeats))
    show("microseconds a step", ("chain", "fan-out"), found, ".0f")
    for package in frameworks.FRAMEWORKS:
        if not frameworks.installed(package):
            print(f"{package} is not installed; run: {INSTALL}")
    return found


def measure_texts(client: Client, model: Path, repeats: int, batch: int) -> Table:
    """The table of the texts, printed."""
    engine = texts.Engine(model)
    try:
        found = texts.measure(engine, client, repeats, batch)
    finally:
        engine.close()
    show(f"seconds, {model.name} model", ("engine_s", "weft_s", "ratio"), found, ".3f")
    return found


def measure_rag(client: Client, model: Path) -> Table:
    """The table of an application, printed."""
    found = {"advanced RAG": rag.measure(client)}
    show(f"milliseconds an answer, {model.name} model", rag.COLUMNS, found, ".1f")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", action="store_true", help="only the steps that do nothing")
    parser.add_argument("--step-repeats", type=int, default=100, help="rounds of steps")
    parser.add_argument("--model", type=Path, default=REFERENCE_MODEL, help="a checkpoint's folder")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of texts")
    parser.add_argument("--batch", type=int, default=16, help="texts at once, for throughput")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args(arguments)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs"
    versions = {name: frameworks.installed(name) for name in ("grpcio", *frameworks.FRAMEWORKS)}
    versions |= {"python": platform.python_version(), "torch": str(torch.__version__)}
    print(machine + "".join(f", {name} {found}" for name, found in versions.items() if found))
    results: dict[str, Table] = {}
    with server(None if options.steps else options.model) as client:
        results["steps"] = measure_steps(client, options.step_repeats)
        if not options.steps:
            results["texts"] = measure_texts(client, options.model, options.repeats, options.batch)
            results["rag"] = measure_rag(client, options.model)
    if options.json:
        report = {"machine": machine, "versions": versions, "date": time.strftime("%Y-%m-%d"), **results}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
