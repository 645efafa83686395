"""Ask the bundled apps ten questions about the demo corpus, and show what happens inside."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from weft import Client, Run
from weft.apps.citations import Cited
from weft.apps.instructions import NOT_FOUND
from weft.apps.rag import cited_answer
from weft.apps.react import agent
from weft.apps.reference_model import corpus
from weft.apps.reference_model.world import Kind, Question
from weft.frontend.client import embedded
from weft.graph.ir import Graph
from weft.runtime.config import Settings

from .timings import summary

__all__ = ["main"]

_RAG: Final[dict[Kind, int]] = {"single": 4, "absent": 2}
_AGENT: Final[dict[Kind, int]] = {"two_hop": 2, "arithmetic": 2}
_NEEDED: Final = 9  # of the ten questions; the model is a very small one


@dataclass(frozen=True)
class Reply:
    """What an app said, and whether it is right."""

    text: str
    cited: tuple[str, ...]  # ids of passages
    right: bool


def main(console: Console, settings: Settings) -> int:
    """Run the demo; the exit status: 0 if at least nine of the ten answers are right."""
    client = _start(console, settings)
    _index(console, client)
    asked = corpus.questions()
    traces = settings.data / "traces"
    traces.mkdir(parents=True, exist_ok=True)
    console.print("\n[bold]RAG[/] (apps/rag): search, look at what stands around, answer with citations")
    console.print(f"  {_outline(cited_answer.graph())}", highlight=False)
    replies = [_ask_rag(console, client, question, traces) for question in _first(asked, _RAG)]
    console.print("\n[bold]Agent[/] (apps/react): search and calculate, step by step, until it is finished")
    replies += [_ask_agent(console, client, question, traces) for question in _first(asked, _AGENT)]
    right = sum(reply.right for reply in replies)
    console.print(f"\n[bold]{right} of {len(replies)} answers are right, citations included.[/]")
    return 0 if right >= _NEEDED else 1


def _start(console: Console, settings: Settings) -> Client:
    if settings.server is not None:
        return Client.of(settings.server, settings)
    began = time.monotonic()
    with console.status("starting the runtime") as status:
        address = embedded.start(settings, lambda message: status.update(f"starting the runtime: {message}"))
    console.print(f"runtime started in {time.monotonic() - began:.1f} s: an orchestrator and its workers")
    return Client.of(address, settings)


def _index(console: Console, client: Client) -> None:
    if corpus.has_index(client, corpus.HANDBOOK):
        console.print(f"index {corpus.HANDBOOK!r} is there already")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"indexing {corpus.HANDBOOK!r}", total=_paragraphs())
        corpus.prepare(client, lambda passages: progress.advance(task, passages))


def _paragraphs() -> int:
    """How many passages the corpus has: its paragraphs but for the headings."""
    texts = "\n\n".join(document.text for document in corpus.documents()).split("\n\n")
    return sum(not text.strip().startswith("#") for text in texts if text.strip())


def _first(asked: Iterable[Question], counts: dict[Kind, int]) -> list[Question]:
    """The first questions of each kind."""
    by_kind = {kind: [question for question in asked if question.kind == kind] for kind in counts}
    return [question for kind, count in counts.items() for question in by_kind[kind][:count]]


def _ask_rag(console: Console, client: Client, question: Question, traces: Path) -> Reply:
    run = cited_answer.using(client).submit(question.text)
    cited = run.result()
    reply = _judge(cited, question)
    _show(console, question, reply, run, traces)
    return reply


def _judge(cited: Cited, question: Question) -> Reply:
    ids = tuple(passage.id for passage in cited.sources)
    grounded = not ids if cited.text == NOT_FOUND else bool(ids) and set(ids) <= set(question.passages)
    complete = len(ids) == cited.answer.count("[")
    return Reply(cited.answer, ids, cited.text == question.answer and grounded and complete)


def _ask_agent(console: Console, client: Client, question: Question, traces: Path) -> Reply:
    run = agent.using(client).submit(question.text)
    answer = run.result()
    reply = Reply(answer, (), answer == question.answer)
    _show(console, question, reply, run, traces)
    return reply


def _show(console: Console, question: Question, reply: Reply, run: Run[Any], traces: Path) -> None:
    trace = run.trace()
    file = traces / f"{question.id}.json"
    file.write_text(json.dumps(trace), encoding="utf-8")
    mark = "[green]right[/]" if reply.right else "[red]wrong[/]"
    cited = f"  cites {', '.join(reply.cited)}" if reply.cited else ""
    gold = f"{question.answer} ({', '.join(question.passages)})" if question.passages else question.answer
    console.print(f"\n  [bold]{escape(question.text)}[/]", highlight=False)
    console.print(f"    {mark}  {escape(reply.text)}{cited}", highlight=False)
    console.print(f"    gold   {escape(gold)}", highlight=False)
    console.print(f"    [dim]{escape(summary(trace))}[/]", highlight=False)
    console.print(f"    [dim]trace: {file} (open it at https://ui.perfetto.dev)[/]", highlight=False)


def _outline(graph: Graph) -> str:
    """The operations of a graph in a line."""
    shown = [node for node in graph if node.op.label() not in ("input", "const", "gather", "format")]
    return " → ".join(node.op.label() + (f" {node.name!r}" if node.name else "") for node in shown)
