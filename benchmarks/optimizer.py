"""What the graph optimizer is worth: Teola's workloads, offline, against the usual ways of writing them.

Arms of one run, on the same questions and the same engines, taken in turn:

- `a modules`: plain Python that calls one module after the other, as LlamaIndex or LangChain run a chain.
- `b gathered`: the same with every independent call made at once by asyncio; prefix caching is on everywhere.
- `c langgraph`: the same application as a compiled LangGraph StateGraph with parallel branches and Send.
- `weft`: one program, all passes; `only X`: one pass; `without X`: all but one; `none`: no optional pass.

The outputs of all arms must be equal, or the benchmark fails. Latency is that of one query at a time.
Each arm has a server of its own; all have the same history. Run: ``make optimizer``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from workloads import programs
from workloads.baselines import Gathered, Sequential, langgraph_version, langgraph_workloads

from weft import Client
from weft.apps.reference_model.corpus import documents, questions
from weft.frontend.client import embedded
from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.passes import OPTIONAL
from weft.graph.plan import Plan
from weft.runtime.config import REFERENCE_MODEL, ModelSettings, Settings
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.orchestrator.chat import TemplateRenderer

WORKLOADS = ("advanced_rag", "naive_rag_refine", "naive_rag_tree")
WARM_UP = 3  # questions
Run = Callable[..., Awaitable[str]]


BASELINES = ("a modules", "b gathered", "c langgraph")


def passes_off() -> dict[str, list[str]]:
    """The optional passes that the server of each arm does without."""
    arms: dict[str, list[str]] = {name: [] for name in (*BASELINES, "weft")} | {"none": list(OPTIONAL)}
    arms |= {f"only {name}": [other for other in OPTIONAL if other != name] for name in OPTIONAL}
    return arms | {f"without {name}": [name] for name in OPTIONAL}


def server(off: Sequence[str], folder: Path) -> Client:
    """A server of its own, with the corpus indexed."""
    model = ModelSettings(path=str(REFERENCE_MODEL))
    settings = Settings(models=[model], data=folder, passes_off=list(off))
    client = Client(embedded.start(settings))
    Sequential(client).store.invoke(documents())
    return client


def arms_of(workload: str, clients: Mapping[str, Client]) -> dict[str, Run]:
    """Every way of running a workload, by name, each on its own server."""
    modules, gathered, langgraph = (clients[name] for name in BASELINES)
    arms: dict[str, Run] = {
        "a modules": getattr(Sequential(modules), workload),
        "b gathered": getattr(Gathered(gathered), workload),
        "c langgraph": langgraph_workloads(langgraph)[workload],
    }
    for name, client in clients.items():
        if name not in BASELINES:
            arms[name] = getattr(programs, workload).using(client).ainvoke
    return arms


async def latencies(
    arms: Mapping[str, Run], asked: Sequence[str], extra: Sequence[Any]
) -> dict[str, list[float]]:
    """Milliseconds of each arm for each question, in turn. Raises AssertionError if outputs differ."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number, question in enumerate(asked):
        replies: dict[str, str] = {}
        names = list(arms)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.perf_counter()
            replies[name] = await arms[name](question, *extra)
            times[name].append((time.perf_counter() - began) * 1e3)
        assert len(set(replies.values())) == 1, f"the outputs differ: {replies}"
    return {name: found[WARM_UP:] for name, found in times.items()}


def summary(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Quantiles in milliseconds, and medians as multiples of weft's."""
    weft = statistics.median(times["weft"])
    return {
        name: {
            "mean": statistics.fmean(found),
            "p50": statistics.median(found),
            "p95": sorted(found)[min(len(found) - 1, int(0.95 * len(found)))],
            "x weft": statistics.median(found) / weft,
        }
        for name, found in times.items()
    }


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


def show(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print the tables."""
    for workload, rows in results.items():
        print(
            f"\n{workload}\n{'':26}" + "".join(f"{column:>10}" for column in ("mean", "p50", "p95", "x weft"))
        )
        for name, row in rows.items():
            cells = "".join(f"{row[column]:10.1f}" for column in ("mean", "p50", "p95"))
            print(f"{name:26}{cells}{row['x weft']:10.2f}")


def main() -> None:
    """Measure, print tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workload", choices=WORKLOADS, action="append", help="only this one; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="five questions instead of twenty")
    parser.add_argument("--compile", action="store_true", help="only time compiling and binding")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if options.compile:
        for name, value in compile_times(200).items():
            print(f"{name:20}{value:10.2f}")
        return
    print(f"{machine}, torch {torch.__version__}, langgraph {langgraph_version()}, reference model")
    folder = Path(tempfile.mkdtemp(prefix="weft-bench-"))
    try:
        clients = {name: server(off, folder / name) for name, off in passes_off().items()}
        asked = [question.text for question in questions()][: WARM_UP + (5 if options.quick else 20)]
        results: dict[str, dict[str, dict[str, float]]] = {}
        for workload in options.workload or WORKLOADS:
            extra = [documents()] if workload == "advanced_rag" else []
            times = asyncio.run(latencies(arms_of(workload, clients), asked, extra))
            results[workload] = summary(times)
            show({workload: results[workload]})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        report: dict[str, object] = {"machine": machine, "torch": torch.__version__}
        report |= {"langgraph": langgraph_version(), "date": time.strftime("%Y-%m-%d")}
        report |= {"questions": len(asked) - WARM_UP, "results": results, "compile": compile_times(200)}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
