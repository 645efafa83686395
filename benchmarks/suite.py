"""The applications of Teola, Parrot, SGLang and Helium on weft and on what people use instead.

    weft bench suite [--quick] [--only NAME …] [--systems NAME …] [--out FILE]

Each application is a plan (`plans/`) that every system (`systems/`) runs in its own idiomatic way: plain
Python, asyncio, LangGraph, LlamaIndex workflows and Haystack call one weft server through its OpenAI door,
weft runs it as a program over gRPC. All are greedy and use the same engine with its prefix cache; none sees
what another has read (of `unshared`, which must be named, no call sees what any has read). Results are
compared, and checked where the reference model knows the task.

For speed alone, with the papers' token structure: `--shape` serves random weights of a known shape behind the
reference model's tokenizer, with texts of forced lengths; `--length` lengthens the passages.

Prints a table and writes FILE (JSON) and a page beside it (HTML). Ctrl-C ends it with what there is.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # read when it is imported

import torch
from comparison import page, shapes, summary
from comparison.measure import INDEX, Bench, Extent, Row
from engines.models import SHAPES
from plans import helium, parrot, sglang, teola, trading
from plans.workload import World
from systems import BASELINES, SYSTEMS, USUAL
from workloads.servers import http_server

from weft.apps.reference_model.corpus import fill
from weft.runtime.config import REFERENCE_MODEL

WORKLOADS: Final = {
    workload.name: workload
    for paper in (teola, parrot, sglang, helium, trading)
    for workload in paper.WORKLOADS
}
LOADED: Final = ("naive RAG", "JSON fields")
"""Workloads that are also measured under Poisson arrivals."""
QUICK: Final = Extent(repeats=5, arrivals=12)
FULL: Final = Extent(repeats=15, arrivals=40)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the files; the exit status."""
    options = _options(arguments)
    report: dict[str, Any] = _about(options) | {"rows": []}
    older = (
        json.loads(options.out.read_text(encoding="utf-8")) if options.add and options.out.exists() else None
    )
    interrupted = False
    if older is not None:
        try:
            summary.merged(older, report)  # before anything is measured
        except ValueError as problem:
            _say(f"nothing can be added to {options.out}: {problem}; give another --out FILE")
            return 2
    try:
        asyncio.run(_measure(options, report["rows"]))
    except KeyboardInterrupt:
        interrupted = True
        _say("interrupted; what follows is what was measured")
    if older is not None:
        report = summary.merged(older, report)
    report["rows"].sort(key=lambda row: list(WORKLOADS).index(row["workload"]))
    print(summary.text(report))
    if options.out and report["rows"]:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        shown = options.out.with_suffix(".html")
        shown.write_text(page.page(report), encoding="utf-8")
        _say(f"wrote {options.out} and {shown}")
    return 130 if interrupted else 0


async def _measure(options: argparse.Namespace, rows: list[Row]) -> None:
    extent = QUICK if options.quick else FULL
    world = World(options.seed, options.length)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weft-suite-", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "data"
        model = options.model
        if options.shape:
            _say(f"drawing a random {options.shape}")
            model = shapes.written(options.shape, Path(name))
        _say("starting a server")
        with http_server(model, folder) as server:
            if any(WORKLOADS[name].plan.searches() for name in options.only):
                await fill.using(server.client).ainvoke(world.corpus.documents(), index=INDEX)
            bench = Bench(server, folder, world, options.systems, forced=options.forced)
            for number, workload in enumerate(options.only, 1):

                def progress(what: str, at: str = f"{number}/{len(options.only)} {workload}") -> None:
                    _say(f"[{time.monotonic() - began:4.0f} s] {at}: {what}")

                loaded = workload in LOADED and not options.no_load
                rows.append(await bench.row(WORKLOADS[workload], extent, loaded=loaded, progress=progress))
            await bench.close()


def _about(options: argparse.Namespace) -> dict[str, Any]:
    used = [BASELINES[name] for name in options.systems if name in BASELINES]
    versions = {system.package: system.version for system in used}
    return {
        "command": shlex.join(["weft", "bench", "suite", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{_processor()}, {os.cpu_count()} cores{_device()}",
        "model": _model(options),
        "seed": options.seed,
        "systems": options.systems,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), **versions},
    }


def _model(options: argparse.Namespace) -> str:
    name = options.model.name if options.model != REFERENCE_MODEL else "reference"
    parts = [f"random {options.shape}, {shapes.VOCABULARY}" if options.shape else name]
    parts += ["forced lengths"] if options.forced else []
    parts += [f"passages of {options.length}"] if options.length > 1 else []
    return ", ".join(parts)


def _device() -> str:
    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def _processor() -> str:
    """The name of the processor where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="weft bench suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="five repeats instead of fifteen, less load")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--systems", nargs="+", metavar="NAME", choices=SYSTEMS, help=", ".join(SYSTEMS))
    parser.add_argument("--no-load", action="store_true", help="no Poisson arrivals")
    parser.add_argument("--model", type=Path, default=REFERENCE_MODEL, help="a checkpoint's folder")
    parser.add_argument(
        "--shape", choices=SHAPES, help="random weights of this shape instead, lengths forced"
    )
    parser.add_argument("--forced", action="store_true", help="texts as long as their steps allow")
    parser.add_argument("--length", type=int, default=1, help="passages in each passage of a prompt (1)")
    parser.add_argument("--seed", type=int, default=11, help="of the world that is asked about (11)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the results there, and a page beside it"
    )
    parser.add_argument("--add", action="store_true", help="keep the rows that FILE has of other workloads")
    options = parser.parse_args(arguments)
    if options.shape and options.model != REFERENCE_MODEL:
        parser.error("--shape draws a model of its own: leave out --model")
    if options.length < 1:
        parser.error(f"--length must be at least 1, not {options.length}")
    options.forced = options.forced or bool(options.shape)
    if options.add and not options.out:
        parser.error("--add needs --out FILE, the file whose rows are kept")
    if options.systems is None:
        options.systems = [name for name in USUAL if name == "weft" or BASELINES[name].version]
        for name in USUAL:
            if name not in options.systems:
                _say(f"{name} is left out: install it with {BASELINES[name].install}")
    return options


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
