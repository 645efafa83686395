"""How many answers of the bundled apps are right, on the reference model, in a world of a fresh seed.

    python -P benchmarks/apps.py [--questions 40] [--seeds 1 2 3] [--apps rag …] [--show 3] [--json FILE]

Each app gets as many questions about a world that nobody has seen before (or texts about it, to summarize, to
extract from), in one world for each seed, on an embedded runtime. An answer is right if its text is exactly
the value, and if what it cites holds the value. Retrieval is part of what is measured: the index has 120
passages, and every eighth says "the firm" or "it" of what the one before it names.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from weft.apps import (
    chat,
    debate,
    doc_qa,
    json_extract,
    llm_judge,
    rag,
    rag_advanced,
    rag_agentic,
    react,
    skeleton_of_thought,
    summarize_chain,
    summarize_map_reduce,
)
from weft.apps.citations import Cited
from weft.apps.reference_model.corpus import fill
from weft.apps.reference_model.world import Corpus, Entity, Fact, Kind, Question
from weft.apps.reference_model.world.passages import PRONOUNS, write_passage
from weft.apps.reference_model.world.questions import ask
from weft.apps.reference_model.world.schema import KINDS
from weft.frontend.verbs import Program

CONCURRENCY: Final = 4
COMPANIES: Final = 11  # in a corpus of size 1

LOOK_UPS: Final[dict[Kind, int]] = {"single": 3, "absent": 1}
AGENT: Final[dict[Kind, int]] = {"single": 3, "two_hop": 3, "arithmetic": 3, "absent": 1}
"""The shares of the kinds of questions."""


@dataclass(frozen=True)
class Case:
    """One call of an app, its right answer, and what it may cite: what holds the answer, if anything."""

    call: dict[str, Any]
    answer: Any
    gold: frozenset[str] | None = None  # None: the app cites nothing


@dataclass(frozen=True)
class App:
    """A program, the cases for it, and how its results read: the answer, and what it cites."""

    program: Program[..., Any]
    cases: Callable[[World], Iterable[Case]]
    read: Callable[[Any], tuple[Any, list[str]]]

    def is_right(self, case: Case, result: object) -> bool:
        """Whether a result is right; an exception is not."""
        if isinstance(result, Exception):
            return False
        answer, cited = self.read(result)
        grounded = case.gold is None or (set(cited) <= case.gold and bool(cited) is bool(case.gold))
        return bool(answer == case.answer) and grounded


class World:
    """What the apps are asked about."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed = seed
        self.count = count  # of questions for each app
        self.index = f"world-{seed}"
        self.rng = Random(seed)
        self.corpus = Corpus(seed, size=max(2, -(-count // 20)))

    def questions(self, shares: dict[Kind, int]) -> list[Question]:
        """Questions of several kinds in these shares."""
        total = sum(shares.values())
        chosen: list[Question] = []
        for kind, share in shares.items():
            of_kind = [question for question in self.corpus.questions if question.kind == kind]
            chosen += of_kind[: round(self.count * share / total)]
        return chosen

    def asked(self, question: Question, gold: Iterable[str] | None = None) -> Case:
        """The case of a question; `gold` is what may be cited for it."""
        call = {"question": question.text, "index": self.index}
        return Case(call, question.answer, None if gold is None else frozenset(gold))


# ---- cases


def passages_of(world: World) -> Iterator[Case]:
    """Look-ups; what is cited are the passages that hold the answer."""
    return (world.asked(question, question.passages) for question in world.questions(LOOK_UPS))


def surroundings_of(world: World) -> Iterator[Case]:
    """Look-ups; what is cited may also stand beside such a passage, as each is read with its neighbours."""
    for question in world.questions(LOOK_UPS):
        places = [id.rsplit("#", 1) for id in question.passages]
        near = (f"{document}#{int(number) + step}" for document, number in places for step in (-1, 0, 1))
        yield world.asked(question, near)


def files_of(world: World) -> Iterator[Case]:
    """Look-ups; what is cited are the files that hold the answer."""
    for question in world.questions(LOOK_UPS):
        yield world.asked(question, (id.partition("#")[0] for id in question.passages))


def look_ups(world: World) -> Iterator[Case]:
    """Look-ups of which only the text of the answer counts."""
    return (world.asked(question) for question in world.questions(LOOK_UPS))


def tasks(world: World) -> Iterator[Case]:
    """Look-ups, two in a row, and arithmetic."""
    return (world.asked(question) for question in world.questions(AGENT))


def verdicts(world: World) -> Iterator[Case]:
    """The right answer to a question, and a wrong one of the same sort, in either order."""
    facts = world.corpus.facts
    for fact in world.rng.sample(facts, world.count):
        same = {other.value.text for other in facts if other.relation is fact.relation} - {fact.value.text}
        answers = [fact.value.text, world.rng.choice(sorted(same))]
        world.rng.shuffle(answers)
        question = ask(world.rng, fact.relation, fact.subject)
        yield Case({"question": question, "answers": answers, "index": world.index}, [fact.value.text])


def companies(world: World) -> Iterator[Case]:
    """What a text says of a company, and nothing else."""
    corpus = Corpus(world.rng.randrange(2**32), size=-(-world.count // COMPANIES))
    for subject in corpus.entities("company")[: world.count]:
        (text, facts), *_ = _paragraphs(world, corpus, subject, (4,))
        said = {fact.relation.label.replace(" ", "_"): fact.value.text for fact in facts}
        yield Case({"text": text, "subject": subject.name}, said)


def articles(world: World, *, continues: bool) -> Iterator[Case]:
    """Two paragraphs with up to five facts in all; the second may say "the firm" of its subject."""
    for subject in world.corpus.subjects[: world.count]:
        sizes = (3, world.rng.choice((1, 2)))
        parts = list(_paragraphs(world, world.corpus, subject, sizes, continues=continues))
        text = "\n\n".join(text for text, _ in parts)
        said = {f"{fact.relation.label} = {fact.value.text}" for _, facts in parts for fact in facts}
        yield Case({"text": text}, (subject.name, said))


def topics(world: World) -> Iterator[Case]:
    """A point for each fact about the topic, with its value."""
    for subject in world.corpus.subjects[: world.count]:
        facts = [fact for placed in world.corpus.about(subject) for fact in placed.passage.facts]
        said = {fact.relation.label: fact.value.text for fact in facts}
        yield Case({"topic": subject.name, "index": world.index}, said)


def follow_ups(world: World) -> Iterator[Case]:
    """Questions with a pronoun for what the turn before was about; its answer was no second candidate."""
    for subject in world.corpus.subjects:
        facts = world.corpus.about(subject)[0].passage.facts
        plain = next((fact for fact in facts if fact.value.entity is None), None)
        asked = next((fact for fact in facts if fact is not plain), None)
        if plain is None or asked is None:
            continue
        history = [{"user": ask(world.rng, plain.relation, subject), "assistant": plain.value.text}]
        options = [template for template in asked.relation.questions if "{n}" not in template]
        message = world.rng.choice(options).format_map(PRONOUNS[subject.pronoun])
        yield Case({"message": message, "history": history, "index": world.index}, asked.value.text)


def _paragraphs(
    world: World, corpus: Corpus, subject: Entity, sizes: tuple[int, ...], *, continues: bool = False
) -> Iterator[tuple[str, list[Fact]]]:
    """Paragraphs with so many facts each; all but the first may continue the one before."""
    relations = iter(world.rng.sample(list(KINDS[subject.kind].relations.values()), sum(sizes)))
    for place, size in enumerate(sizes):
        facts = [corpus.fact(subject, next(relations)) for _ in range(size)]
        passage = write_passage(world.rng, subject, facts, continues=continues and place > 0, fillers=2)
        yield passage.text, facts


# ---- how results read


def _cited(got: Cited) -> tuple[str, list[str]]:
    return got.text, [passage.id for passage in got.sources]


def _refined(got: rag_advanced.Refined) -> tuple[str, list[str]]:
    return got.answer, [got.source] if got.source else []


def _text(got: str) -> tuple[str, list[str]]:
    return Cited(got, []).text, []


def _summary(got: str) -> tuple[tuple[str, set[str]], list[str]]:
    name, _, said = got.partition(": ")
    return (name, set(said.split("; "))), []


def _extracted(got: json_extract.Company) -> tuple[dict[str, str], list[str]]:
    return {name: str(value) for name, value in got if value is not None}, []


APPS: Final = {
    "rag": App(rag.cited_answer, passages_of, _cited),
    "rag_advanced": App(rag_advanced.answer, surroundings_of, _refined),
    "rag_agentic": App(rag_agentic.answer, passages_of, lambda got: (got.answer, got.sources)),
    "react": App(react.agent, tasks, _text),
    "doc_qa": App(doc_qa.answer, files_of, lambda got: (_text(got.answer)[0], got.sources)),
    "summarize_chain": App(summarize_chain.summary, lambda world: articles(world, continues=True), _summary),
    "summarize_map_reduce": App(
        summarize_map_reduce.summary, lambda world: articles(world, continues=False), _summary
    ),
    "json_extract": App(json_extract.extract, companies, _extracted),
    "llm_judge": App(llm_judge.judge, verdicts, lambda got: ([v.answer for v in got if v.correct], [])),
    "skeleton_of_thought": App(
        skeleton_of_thought.article, topics, lambda got: ({p.heading: _text(p.text)[0] for p in got}, [])
    ),
    "debate": App(debate.debate, look_ups, _text),
    "chat": App(chat.reply, follow_ups, _text),
}


# ---- running them


def main() -> None:
    """Ask, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[int(time.time())], help="default: a new one")
    parser.add_argument("--apps", nargs="+", choices=list(APPS), default=list(APPS))
    parser.add_argument("--show", type=int, default=0, metavar="N", help="so many wrong answers of each app")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        world = World(seed, arguments.questions)
        fill(world.corpus.documents(), index=world.index)
        rows += [_measure(name, world, arguments.show, console) for name in arguments.apps]
    console.print(_table(rows))
    if arguments.json:
        about = {
            "command": shlex.join(["python", "-P", *sys.argv]),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        arguments.json.write_text(json.dumps({**about, "apps": rows}, indent=2) + "\n", encoding="utf-8")


def _measure(name: str, world: World, show: int, console: Console) -> dict[str, Any]:
    app = APPS[name]
    cases = list(islice(app.cases(world), world.count))
    calls = [case.call for case in cases]
    results = app.program.batch(calls, concurrency=CONCURRENCY, return_exceptions=True)
    pairs = zip(cases, results, strict=True)
    wrong = [(case, result) for case, result in pairs if not app.is_right(case, result)]
    right = len(cases) - len(wrong)
    console.print(f"seed {world.seed}, {name}: {right} of {len(cases)}", highlight=False)
    for case, result in wrong[:show]:
        console.print(f"  {case.call}\n    right {case.answer} {case.gold}\n    got   {result}", markup=False)
    return {"app": name, "seed": world.seed, "right": right, "of": len(cases)}


def _table(rows: list[dict[str, Any]]) -> Table:
    """A line for each app, with a column for each seed and one for all of them."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    table = Table("app", *(f"seed {seed}" for seed in seeds), "right")
    for app in dict.fromkeys(row["app"] for row in rows):
        own = [row for row in rows if row["app"] == app]
        share = sum(row["right"] for row in own) / sum(row["of"] for row in own)
        table.add_row(app, *(f"{row['right']} of {row['of']}" for row in own), f"{share:.1%}")
    return table


if __name__ == "__main__":
    main()
