"""The applications of Teola, Parrot, SGLang and Helium on weft and on what people use instead.

    weft bench suite [--quick] [--only NAME …] [--systems NAME …] [--out FILE]

Each application is a plan (`plans/`) that every system (`systems/`) runs in its own idiomatic way: plain
Python, asyncio, LangGraph, LlamaIndex workflows and Haystack call one weft server through its OpenAI door,
weft runs it as a program over gRPC. All are greedy and use the same engine with its prefix cache; none sees
what another has read. Results are compared, and checked where the reference model knows the task.

For speed alone, with the papers' token structure: `--shape` serves random weights of a known shape behind the
reference model's tokenizer, with texts of forced lengths; `--length` lengthens the passages, `--papers` takes
those of the papers. Two systems that have to be named say what comes from where: `no passes`, weft without
its optimizer's passes, and `unshared`, asyncio of which no call sees what any has read. `--delay-ms` puts a
network between all clients and the server. `--url` names another server, vLLM's for one, that runs the model:
the others call it, and weft stands in front of it.

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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # read when it is imported

import torch
from comparison import page, shapes, summary
from comparison.measure import INDEX, Bench, Extent, Row
from engines.models import SHAPES
from plans import helium, parrot, sglang, teola, trading
from plans.sizes import sized
from plans.workload import Sizes, World
from systems import BASELINES, OWN, PLAIN, SYSTEMS, USUAL
from workloads.servers import HttpServer, http_server

from weft.apps.reference_model.corpus import fill
from weft.graph.passes import OPTIONAL
from weft.runtime.config import REFERENCE_MODEL

WORKLOADS: Final = {
    workload.name: workload
    for paper in (teola, parrot, sglang, helium, trading)
    for workload in paper.WORKLOADS
}
LOADED: Final = ("naive RAG", "JSON fields")
"""Workloads that are also measured under Poisson arrivals, if no others are named."""
QUICK: Final = Extent(repeats=5, arrivals=12)
FULL: Final = Extent(repeats=15, arrivals=40)
BESIDE: Final = 131_072
"""Tokens that a server keeps on a GPU which it shares with another: 16 GiB of an 8B model's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the files; the exit status."""
    options = _options(arguments)
    report: summary.Report = _about(options) | {"rows": []}
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

    def found(row: Row) -> None:
        report["rows"].append(row)
        _write(options.out, _whole(report, older))  # so that a run that is killed leaves what it has

    try:
        asyncio.run(_measure(options, found))
    except KeyboardInterrupt:
        interrupted = True
        _say("interrupted; what follows is what was measured")
    report = _whole(report, older)
    print(summary.text(report))
    if options.out and report["rows"]:
        _say(f"wrote {options.out} and {_page(options.out)}")
    return 130 if interrupted else 0


def _whole(report: summary.Report, older: summary.Report | None) -> summary.Report:
    """With the rows that were there before, in the order of the workloads."""
    whole = report if older is None else summary.merged(older, report)
    return whole | {"rows": sorted(whole["rows"], key=lambda row: list(WORKLOADS).index(row["workload"]))}


def _write(out: Path | None, report: summary.Report) -> None:
    if out:
        for file, text in ((out, json.dumps(report, indent=1) + "\n"), (_page(out), page.page(report))):
            part = file.with_name(f"{file.name}.part")
            part.write_text(text, encoding="utf-8")
            part.replace(file)


def _page(out: Path) -> Path:
    return out.with_suffix(".html")


async def _measure(options: argparse.Namespace, found: Callable[[Row], None]) -> None:
    began = time.monotonic()

    def say(what: str) -> None:
        _say(f"[{time.monotonic() - began:4.0f} s] {what}")

    with tempfile.TemporaryDirectory(prefix="weft-suite-", ignore_cleanup_errors=True) as name:
        model = options.model
        if options.shape:
            say(f"drawing a random {options.shape}")
            model = shapes.written(options.shape, options.weights or Path(name))
        with ExitStack() as stack:
            say("starting a server")
            bench = await _bench(options, model, Path(name), stack)
            for number, workload in enumerate(options.only, 1):

                def progress(what: str, at: str = f"{number}/{len(options.only)} {workload}") -> None:
                    say(f"{at}: {what}")

                chosen = sized(WORKLOADS[workload], _sizes(options, workload), forced=options.forced)
                loaded = workload in options.loaded
                found(await bench.row(chosen, options.extent, loaded=loaded, progress=progress))
            await bench.close()


async def _bench(options: argparse.Namespace, model: Path, folder: Path, stack: ExitStack) -> Bench:
    """Servers, with the world in their indexes if a workload searches."""
    world = World(options.seed)
    both = PLAIN in options.systems
    off: list[Sequence[str]] = [(), OPTIONAL] if both else [()]
    servers: list[HttpServer] = []
    for number, passes in enumerate(off):
        kept = BESIDE if both and torch.cuda.is_available() else None
        server = http_server(
            model,
            folder / f"data{number}",
            passes,
            kv_tokens=kept,
            one_way_s=options.delay_ms / 2e3,
            url=options.url,
        )
        servers.append(stack.enter_context(server))
        if any(WORKLOADS[name].plan.searches() for name in options.only):
            await fill.using(servers[-1].client).ainvoke(world.corpus.documents(), index=INDEX)
    plain = servers[1] if both else None
    return Bench(servers[0], folder / "data0", world, options.systems, plain=plain, forced=options.forced)


def _sizes(options: argparse.Namespace, workload: str) -> Sizes:
    return WORKLOADS[workload].papers if options.papers else Sizes(passages=options.length)


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
    parts += ["the papers' sizes"] if options.papers else []
    parts += [f"run by {options.url}"] if options.url else []
    parts += [f"clients {options.delay_ms:g} ms away, there and back"] if options.delay_ms else []
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
    parser.add_argument("--repeats", type=int, metavar="N", help="so many repeats")
    parser.add_argument("--no-load", action="store_true", help="no Poisson arrivals")
    parser.add_argument(
        "--loaded",
        nargs="+",
        metavar="NAME",
        choices=WORKLOADS,
        default=LOADED,
        help=f"workloads that are also measured under Poisson arrivals ({', '.join(LOADED)})",
    )
    parser.add_argument(
        "--rates",
        nargs="+",
        type=float,
        metavar="X",
        help="of the arrivals, as multiples of what weft serves one after the other (0.5 1 2)",
    )
    parser.add_argument("--arrivals", type=int, metavar="N", help="so many arrivals at each rate")
    parser.add_argument("--model", type=Path, default=REFERENCE_MODEL, help="a checkpoint's folder")
    parser.add_argument(
        "--shape", choices=SHAPES, help="random weights of this shape instead, lengths forced"
    )
    parser.add_argument("--forced", action="store_true", help="texts as long as their steps allow")
    parser.add_argument("--length", type=int, default=1, help="passages in each passage of a prompt (1)")
    parser.add_argument(
        "--papers", action="store_true", help="prompts, texts and searches as large as in the papers"
    )
    parser.add_argument(
        "--delay-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="what a message to the server and its answer spend on the way, for every system (0)",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="keep what --shape draws there, or take it from there"
    )
    parser.add_argument(
        "--url",
        default="",
        help="of a server that runs the model, as http://HOST:PORT/v1; weft stands in front of it",
    )
    parser.add_argument("--seed", type=int, default=11, help="of the world that is asked about (11)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the results there, and a page beside it"
    )
    parser.add_argument("--add", action="store_true", help="keep the rows that FILE has of other workloads")
    options = parser.parse_args(arguments)
    if options.shape and options.model != REFERENCE_MODEL:
        parser.error("--shape draws a model of its own: leave out --model")
    if options.url and (options.shape or options.delay_ms):
        parser.error(
            "--url names a server that has its own model and place: leave out --shape and --delay-ms"
        )
    if options.length < 1:
        parser.error(f"--length must be at least 1, not {options.length}")
    if options.papers and options.length > 1:
        parser.error("--papers has lengths of its own: leave out --length")
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats must be at least 1, not {options.repeats}")
    if options.arrivals is not None and options.arrivals < 1:
        parser.error(f"--arrivals must be at least 1, not {options.arrivals}")
    if any(not rate > 0 for rate in options.rates or ()):
        parser.error("--rates must be positive")
    options.loaded = () if options.no_load else options.loaded
    options.extent = _extent(options)
    if lacking := [name for name in options.only if not _enough(name, options)]:
        parser.error(f"too few cases: lower --repeats or --arrivals, or leave out {', '.join(lacking)}")
    options.forced = options.forced or bool(options.shape)
    if options.add and not options.out:
        parser.error("--add needs --out FILE, the file whose rows are kept")
    if options.systems is None:
        options.systems = [name for name in USUAL if name in OWN or BASELINES[name].version]
        for name in USUAL:
            if name not in options.systems:
                _say(f"{name} is left out: install it with {BASELINES[name].install}")
    return options


def _extent(options: argparse.Namespace) -> Extent:
    extent = QUICK if options.quick else FULL
    named = {name: getattr(options, name) for name in ("repeats", "arrivals", "rates")}
    return replace(extent, **{name: value for name, value in named.items() if value})


def _enough(workload: str, options: argparse.Namespace) -> bool:
    """Whether a workload has as many cases as are asked for."""
    count: int = options.extent.cases(workload in options.loaded)
    try:
        return len(WORKLOADS[workload].cases(World(options.seed), count)) == count
    except ValueError:  # that a sample is larger than what it is of
        return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
