"""`weft runs`: what a server is doing and has done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from weft.frontend.client import Client
from weft.frontend.errors import NotFound
from weft.frontend.report import RunReport
from weft.frontend.report.tasks import Task
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.config import client_settings

from .answers import answer
from .output import OUTPUT, print_json, print_table, print_value, seconds
from .problems import UsageProblem
from .reports import HtmlOption, MermaidOption, write_report, write_trace
from .server import ConfigOption, JsonOption, ServerOption, connected

__all__ = ["command"]

_STATES: Final = ("running", "waiting", "done", "failed", "cancelled")
_ALL: Final = 10_000  # more than a server keeps


def command(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[explain|resume] RUN]",
            help="One run, where its time went, or an answer to it; by default the latest runs.",
        ),
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the run.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write the run's trace for ui.perfetto.dev."),
    ] = None,
    html: HtmlOption = None,
    mermaid: MermaidOption = False,
    value: Annotated[
        str | None, typer.Option("--value", help="The answer for `weft runs resume RUN`: JSON or text.")
    ] = None,
    node: Annotated[int | None, typer.Option("--node", help="Which question, if a run asks several.")] = None,
    state: Annotated[str, typer.Option(help="Only running, waiting, done, failed or cancelled ones.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    server: ServerOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the runs of a server; show, trace, explain, answer or cancel one of them."""
    verb, run = _subject(words or [])
    explained = verb == "explain"
    if state and state not in _STATES:
        raise UsageProblem(f"--state is one of {', '.join(_STATES)}, not {state!r}")
    if (value is not None) is not (verb == "resume"):
        raise UsageProblem("`weft runs resume RUN` and --value go together")
    if node is not None and verb != "resume":
        raise UsageProblem("--node is for `weft runs resume RUN`")
    if (cancel or trace) and not run:
        raise UsageProblem("--cancel and --trace need a RUN")
    if (cancel or trace) and verb:
        raise UsageProblem(f"--cancel and --trace cannot be used with `weft runs {verb}`")
    if (html or mermaid) and not explained:
        raise UsageProblem("--html and --mermaid are for `weft runs explain RUN`")
    if (html is not None) + mermaid + as_json > 1:
        raise UsageProblem("only one of --html, --mermaid and --json can be used")
    settings = client_settings(config, server=server)
    client = connected(settings.server or settings.called, settings)
    if not run:
        _write_list([_plain(info) for info in client.runs(limit=limit, state=state)], as_json)
        return
    if value is not None:
        answer(client.run(run), _find(client, run), value, node)
        if as_json:
            print_json(_plain(_find(client, run)))
        return
    if explained:
        write_report(client.run(run).explain(), html=html, mermaid=mermaid, as_json=as_json)
        return
    if cancel:
        info = client.call(lambda stub: stub.Cancel(pb.CancelRunRequest(run=run)))
    else:
        info = _find(client, run)
    followed = client.run(run)
    if trace:
        write_trace(followed, trace)
    over = info.state not in ("running", "waiting")
    _write_one(info, followed.explain() if over else None, as_json)


def _subject(words: Sequence[str]) -> tuple[str, str]:
    """What is to be done, if not just shown, and the run that the arguments name, if any."""
    match words:
        case []:
            return "", ""
        case ["explain" | "resume" as verb]:
            raise UsageProblem(f"which run? Write `weft runs {verb} RUN`; `weft runs` lists them")
        case ["explain" | "resume" as verb, run]:
            return verb, run
        case [run]:
            return "", run
        case _:
            raise UsageProblem(f"one RUN at a time, not {' '.join(words)!r}")


def _find(client: Client, run: str) -> pb.RunInfo:
    for info in client.runs(limit=_ALL):
        if info.run == run:
            return info
    raise NotFound(f"there is no run {run!r}", code="not_found")


def _plain(info: pb.RunInfo) -> dict[str, Any]:
    return {
        "run": info.run,
        "program": info.program,
        "parent": info.parent or None,
        "state": info.state,
        "started": datetime.fromtimestamp(info.started_unix_s).astimezone().isoformat(timespec="seconds"),
        "seconds": info.seconds,
        "nodes": info.nodes,
        "nodes_done": info.nodes_done,
        "waiting": [
            {"node": asked.node, "label": asked.label, "value": json.loads(asked.value), "type": asked.type}
            for asked in info.waiting
        ],
    }


def _write_list(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif not found:
        OUTPUT.out("no runs")
    else:
        columns = ("run", "program", "state", "started", "time", "nodes")
        print_table("runs", columns, map(_row, found))


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    nodes = f"{item['nodes_done']} of {item['nodes']}"
    started = item["started"][:19].replace("T", " ")  # in local time, as it is
    program = f"{item['program']} (in {item['parent']})" if item["parent"] else item["program"]
    return (item["run"], program, item["state"], started, seconds(item["seconds"]), nodes)


def _write_one(info: pb.RunInfo, report: RunReport | None, as_json: bool) -> None:
    """`report`: of a run that is over."""
    tasks = list(report.tasks.values()) if report else []
    if as_json:
        tokens = report.tokens._asdict() if report else None
        print_json({**_plain(info), "tokens": tokens, "stats": [_stat(task) for task in tasks]})
        return
    _write_list([_plain(info)], as_json)
    for asked in info.waiting:
        OUTPUT.out(f"\nnode {asked.node} asks, and takes an answer of {asked.type}:")
        print_value(json.loads(asked.value))
    if report and any(report.tokens):
        OUTPUT.out(f"\n{report.tokens}")
    if tasks:
        OUTPUT.out("")
        columns = ("primitive", "on", "ready", "time", "read", "cached", "written")
        print_table("primitives", columns, map(_task_row, tasks))


def _stat(task: Task) -> dict[str, Any]:
    return {
        "node": task.node,
        "label": task.label,
        "location": task.location,
        "worker": task.worker,
        "ready_s": task.ready_s,
        "seconds": task.finished_s - task.ready_s,
        "computed_tokens": task.computed_tokens,
        "cached_tokens": task.cached_tokens,
        "fetched_tokens": task.fetched_tokens,
        "generated_tokens": task.generated_tokens,
    }


def _task_row(task: Task) -> tuple[object, ...]:
    times = (seconds(task.ready_s), seconds(task.finished_s - task.ready_s))
    return (task.name, task.worker, *times, task.computed_tokens, task.cached_tokens, task.generated_tokens)
