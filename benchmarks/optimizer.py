"""What the graph optimizer is worth: Teola's workloads, offline, against the usual ways of writing them.

Arms, on the same questions and the same engines:

- `a modules`: plain Python that calls one module after the other, as LlamaIndex or LangChain run a chain.
- `b gathered`: the same with every independent call made at once by asyncio; prefix caching is on everywhere.
- `c langgraph`: the same application as a compiled LangGraph StateGraph with parallel branches and Send.
- `weft`: one program, all passes; `none`: without any that can be switched off; with ``--passes`` also the
  passes that let things run side by side (`parallel only`), those that pipeline (`pipeline only`), and each
  alone and left out (`only X`, `without X`).

Each arm has a server of its own with the same history. The answers of all arms must be equal, or the
benchmark fails. One question at a time, the arms in turn; with ``--load`` also as a Poisson process at a
quarter and at three quarters of what (b) can serve. Bounds and blame are those of weft's runs. Run:
``make optimizer``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import torch
from workloads import programs
from workloads.baselines import Gathered, Run, Sequential
from workloads.bounds import Bounds
from workloads.langgraphs import langgraph_version, langgraph_workloads
from workloads.loads import Call, in_turn, poisson, quantiles
from workloads.servers import server

from weft import Client
from weft.apps.contextual_retrieval.program import Part, parts_of
from weft.apps.reference_model.corpus import documents, questions
from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.passes import OPTIONAL
from weft.graph.plan import Plan
from weft.runtime.config import REFERENCE_MODEL, ModelSettings
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.requests import PrefillRequest
from weft.runtime.orchestrator.chat import TemplateRenderer
from weft.runtime.worker.engines.llm_loading import load

WORKLOADS: Final = (
    "advanced_rag",
    "naive_rag_refine",
    "naive_rag_tree",
    "refine_chain",
    "search_engine",
    "contextual",
)
BASELINES: Final = ("a modules", "b gathered", "c langgraph")
GROUPS: Final = {
    "parallel": ("prune", "dedupe", "split_prefill", "guess"),
    "pipeline": ("stage", "pipeline_decode"),
}
"""The passes by what they are for (Teola, section 7.3, which has no guesses)."""

WARM_UP: Final = 3  # questions
PARTS: Final = 8  # passages that contextual retrieval indexes for each question
REPORTS: Final = 5  # runs whose bounds and blame are averaged
LOADS: Final = {"low": (0.25, 12), "high": (0.75, 24)}  # of what (b) can serve; questions

Table = dict[str, dict[str, float]]


def passes_off(ablation: bool) -> dict[str, list[str]]:
    """The optional passes that the server of each arm does without."""
    arms: dict[str, list[str]] = {"weft": [], "none": list(OPTIONAL)}
    if not ablation:
        return {name: [] for name in BASELINES} | arms
    arms = {"a modules": []} | arms
    arms |= {f"{name} only": [other for other in OPTIONAL if other not in on] for name, on in GROUPS.items()}
    arms |= {f"only {name}": [other for other in OPTIONAL if other != name] for name in OPTIONAL}
    return arms | {f"without {name}": [name] for name in OPTIONAL}


def arms_of(workload: str, clients: Mapping[str, Client]) -> dict[str, Run]:
    """Every way of running a workload, by name, each on its own server."""
    arms: dict[str, Run] = {}
    for name, client in clients.items():
        match name:
            case "a modules":
                arms[name] = getattr(Sequential(client), workload)
            case "b gathered":
                arms[name] = getattr(Gathered(client), workload)
            case "c langgraph":
                arms[name] = langgraph_workloads(client)[workload]
            case _:
                arms[name] = getattr(programs, workload).using(client).ainvoke
    return arms


def calls_of(workload: str, web_ms: int) -> list[Call]:
    """The arguments of a workload for each question."""
    asked = [question.text for question in questions()]
    match workload:
        case "advanced_rag":
            return [(text, documents()) for text in asked]
        case "search_engine":
            return [(text, web_ms) for text in asked]
        case "contextual":
            return [(text, parts) for text, parts in zip(asked, _parts(len(asked)), strict=True)]
        case _:
            return [(text,) for text in asked]


def _parts(count: int) -> list[list[Part]]:
    every = [part for document in documents() for part in parts_of(document)]
    begins = [PARTS * number % (len(every) - PARTS) for number in range(count)]
    return [every[begin : begin + PARTS] for begin in begins]


# ---- measuring


def single(arms: Mapping[str, Run], calls: Sequence[Call]) -> Table:
    """One question at a time: quantiles in milliseconds, and medians as multiples of weft's."""
    times = {name: found[WARM_UP:] for name, found in asyncio.run(in_turn(arms, calls)).items()}
    weft = statistics.median(times["weft"])
    return {
        name: quantiles(found) | {"x weft": statistics.median(found) / weft} for name, found in times.items()
    }


def loaded(arms: Mapping[str, Run], calls: Sequence[Call], per_s: float) -> Table:
    """Poisson arrivals, arm after arm. Raises AssertionError if answers differ."""
    answers: dict[str, list[str]] = {}
    table: Table = {}
    for name, run in arms.items():
        times, answers[name] = asyncio.run(poisson(run, calls, per_s))
        table[name] = quantiles(times)
    assert all(given == answers["weft"] for given in answers.values()), "the answers differ under load"
    weft = table["weft"]["mean"]
    return {name: row | {"x weft": row["mean"] / weft} for name, row in table.items()}


def bounds_of(workload: str, client: Client, calls: Sequence[Call]) -> Bounds:
    """What bounds the runs of weft, and what their critical paths are spent on."""
    program = getattr(programs, workload).using(client)
    reports = []
    for call in calls:
        run = program.submit(*call)
        run.result()
        reports.append(run.explain())
    return Bounds.of(reports)


def compile_times(repeats: int) -> dict[str, float]:
    """Median milliseconds of compiling advanced RAG anew, and of binding a run to its plan."""
    chat = ChatTemplate.from_folder(REFERENCE_MODEL)
    assert chat is not None
    deployment = Deployment({"m": ModelSpec("m", 4096, TemplateRenderer(chat.to_json()))}, "m")
    graph = programs.advanced_rag.graph()
    cold: list[float] = []
    bind: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        plan = Plan.compile(graph, deployment)
        cold.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        plan.instantiate()
        bind.append((time.perf_counter() - began) * 1e3)
    return {
        "nodes as written": len(graph.nodes),
        "nodes compiled": len(plan.nodes),
        "compile ms": statistics.median(cold),
        "bind ms": statistics.median(bind),
    }


def cut_costs(tokens: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of reading a prompt on the bare engine at once, and cut in the middle."""
    loaded = load(ModelSettings(path=str(REFERENCE_MODEL)), 0.0)
    ids = tuple(100 + number % 1000 for number in range(tokens))
    whole: list[float] = []
    halves: list[float] = []
    try:
        for number in range(repeats):
            whole.append(_read(loaded.engine, f"whole {number}", ids))
            halves.append(
                sum(_read(loaded.engine, f"cut {number}", part) for part in (ids[: tokens // 2], ids))
            )
    finally:
        loaded.engine.close()
    once, twice = statistics.median(whole), statistics.median(halves)
    return {
        f"{tokens} tokens ms": once,
        f"{tokens} tokens, cut": twice,
        f"{tokens} tokens, %": 100 * (twice / once - 1),
    }


def _read(engine: LLMEngine, namespace: str, ids: tuple[int, ...]) -> float:
    done = threading.Event()
    began = time.perf_counter()
    engine.submit(PrefillRequest(ids, namespace), lambda events: done.set())
    done.wait()
    return (time.perf_counter() - began) * 1e3


# ---- showing


def show(title: str, table: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table of latencies."""
    columns = ("mean", "p50", "p95", "p99")
    print(f"\n{title:26}" + "".join(f"{column:>10}" for column in (*columns, "x weft")))
    for name, row in table.items():
        print(f"{name:26}" + "".join(f"{row[c]:10.1f}" for c in columns) + f"{row['x weft']:10.2f}")


def show_bounds(bounds: Bounds) -> None:
    """Print what bounds the runs, and the blame."""
    print(f"\nbounds: critical path {bounds.path:.0f} ms, all work of the model {bounds.work:.0f} ms;")
    print(f"the larger is {bounds.closeness:.0%} of the measured {bounds.measured:.0f} ms, spent on")
    for phase, ms in sorted(bounds.blame.items(), key=lambda item: -item[1]):
        print(f"  {phase:14}{ms:8.0f} ms {ms / bounds.measured:5.0%}")


def measured(options: argparse.Namespace, root: Path, ablation: bool) -> dict[str, Any]:
    """One group of arms, on servers that run side by side; what was found by workload."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        clients: dict[str, Client] = {}
        for name, off in passes_off(ablation).items():
            folder = root / f"{ablation} {name}"
            clients[name] = stack.enter_context(server(folder, off, kv_tokens=options.kv_tokens))
            Sequential(clients[name]).store.invoke(documents())
        for workload in options.workload or WORKLOADS:
            arms, calls = arms_of(workload, clients), calls_of(workload, options.web_ms)
            count = WARM_UP + (5 if options.quick else 20)
            table = single(arms, calls[:count])
            show(workload, table)
            found[workload] = result = {"one at a time": table}
            if ablation:
                continue
            rest = calls[count:]
            bounds = bounds_of(workload, clients["weft"], rest[:REPORTS])
            show_bounds(bounds)
            result["bounds"] = vars(bounds) | {"closeness": bounds.closeness}
            if options.load:
                del arms["none"]
                for name, (share, asked) in LOADS.items():
                    per_s = share * 1e3 / table["b gathered"]["mean"]
                    result[f"{name} load"] = under = loaded(arms, rest[REPORTS:][:asked], per_s)
                    show(f"{name} load, {per_s:.2f}/s", under)
    return found


def main(arguments: Iterable[str] | None = None) -> None:
    """Measure, print tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="only this; may be repeated")
    parser.add_argument("--quick", action="store_true", help="five questions instead of twenty")
    parser.add_argument("--load", action="store_true", help="also under Poisson arrivals")
    parser.add_argument("--passes", action="store_true", help="also each pass alone, and each left out")
    parser.add_argument(
        "--compile", action="store_true", help="only time compiling and binding, and what a cut prompt costs"
    )
    parser.add_argument("--web-ms", type=int, default=300, help="how long looking up a query takes (300)")
    parser.add_argument(
        "--kv-tokens", type=int, help="the KV pool of each arm's model, where several share a GPU (automatic)"
    )
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    if options.compile:
        times = compile_times(200) | cut_costs(128, 40) | cut_costs(512, 20)
        for name, value in times.items():
            print(f"{name:20}{value:10.2f}")
        return
    report: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "langgraph": langgraph_version(),
        "date": time.strftime("%Y-%m-%d"),
        "load average before": os.getloadavg()[0],
        "web ms": options.web_ms,
    }
    print(", ".join(f"{key} {value}" for key, value in report.items()))
    with tempfile.TemporaryDirectory(prefix="weft-bench-", ignore_cleanup_errors=True) as folder:
        report["arms"] = measured(options, Path(folder), ablation=False)
        if options.passes:
            report["passes"] = measured(options, Path(folder), ablation=True)
    report["compile"] = compile_times(200)
    report["load average after"] = os.getloadavg()[0]
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
