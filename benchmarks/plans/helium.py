"""Helium's workflows: experts (map-reduce), debate, reflection, iterative refinement, experts by chunks.

Seven experts and six chunks are the paper's numbers. Its trading workflow has a file of its own.
"""

from __future__ import annotations

from typing import Final

from weft.apps.instructions import ANSWER, JUDGE

from .language import Ask, Each, Plan
from .workload import Case, Workload, World, brief, cited, combined, from_passages, refined

__all__ = ["WORKLOADS"]

EXPERTS: Final = (
    "an economist",
    "a historian",
    "an engineer",
    "a lawyer",
    "a librarian",
    "a reporter",
    "a clerk",
)
CHUNKS: Final = 6
AGENTS: Final = 3

_ROLE: Final = f"You are {{item}}. {ANSWER}"
EXPERT_PANEL: Final = Plan(
    ("question", "passages", "experts"),
    (
        Each(
            "opinions",
            "experts",
            Plan(
                ("item", "question", "passages"),
                (from_passages("opinion", "{passages}", system=_ROLE),),
                "opinion",
            ),
        ),
        combined("answer", [f"{{opinions[{place}]}}" for place in range(len(EXPERTS))]),
    ),
    "answer",
    frozenset({"experts"}),
)


def _debate() -> Plan:
    """Two rounds; in the second every agent has heard the others."""
    opening = ("user", "Passages:\n{passages}\n\nQuestion: {question} Speak as agent NUMBER.")
    said = "\n".join(f"- {{opening{agent}}}" for agent in range(AGENTS))
    steps: list[Ask] = []
    for agent in range(AGENTS):
        first = (opening[0], opening[1].replace("NUMBER", str(agent)))
        steps.append(cited(f"opening{agent}", (first,), 24))
    for agent in range(AGENTS):
        first = (opening[0], opening[1].replace("NUMBER", str(agent)))
        heard = ("user", f"The agents have said:\n{said}\nQuestion: {{question}}")
        steps.append(cited(f"reply{agent}", (first, ("assistant", f"{{opening{agent}}}"), heard), 24))
    last = combined("answer", [f"{{reply{agent}}}" for agent in range(AGENTS)])
    return Plan(("question", "passages"), (*steps, last), "answer")


_DRAFT: Final = "Passages:\n{passages}\n\nQuestion: {question}\nProposed answer: {draft}"


def _critic(number: int) -> Ask:
    return Ask(f"critic{number}", (("system", f"You are critic {number}. {JUDGE}"), ("user", _DRAFT)), 4)


REFLECT: Final = Plan(
    ("question", "passages"),
    (
        from_passages("draft", "{passages}"),
        *(_critic(number) for number in (1, 2)),
        cited(
            "answer",
            (
                ("user", "Passages:\n{passages}\n\nQuestion: {question}"),
                ("assistant", "{draft}"),
                ("user", "Is that correct? {critic1}, {critic2}. Question: {question}"),
            ),
            24,
        ),
    ),
    "answer",
)
ITERATIVE: Final = Plan(
    ("question", *(f"chunk{number}" for number in range(CHUNKS))),
    (
        brief("answer0", "{chunk0}"),
        *(refined(f"answer{n}", f"{{answer{n - 1}}}", f"{{chunk{n}}}") for n in range(1, CHUNKS)),
    ),
    f"answer{CHUNKS - 1}",
)


def _parallel() -> Plan:
    """Every expert reads every chunk: 42 calls at once, and one that combines them."""
    inputs = tuple(f"expert{number}" for number in range(len(EXPERTS)))
    notes = tuple(
        Each(f"notes{number}", "chunks", Plan(("item", name, "question"), (_as(name),), "note"))
        for number, name in enumerate(inputs)
    )
    last = combined("answer", [f"{{notes{number}}}" for number in range(len(EXPERTS))])
    return Plan(("question", "chunks", *inputs), (*notes, last), "answer", frozenset({"chunks"}))


def _as(name: str) -> Ask:
    system = f"You are {{{name}}}. {ANSWER}"
    return Ask("note", (("system", system), ("user", "Passages:\n[1] {item}\n\nQuestion: {question}")), 16)


# ---- cases


def _panels(world: World, count: int) -> list[Case]:
    rng = world.rng("experts")
    asked = [world.numbered(rng, 8) for _ in range(count)]
    return [Case({"question": one.question, "passages": one.text, "experts": list(EXPERTS)}) for one in asked]


def _debates(world: World, count: int) -> list[Case]:
    rng = world.rng("debate")
    asked = [world.numbered(rng, 8) for _ in range(count)]
    return [Case({"question": one.question, "passages": one.text}) for one in asked]


def _chunks(world: World, count: int) -> list[Case]:
    rng = world.rng("iterative")
    asked = [world.numbered(rng, CHUNKS) for _ in range(count)]
    return [
        Case(
            {"question": one.question, **{f"chunk{n}": text for n, text in enumerate(one.passages)}},
            one.answer,
        )
        for one in asked
    ]


def _readings(world: World, count: int) -> list[Case]:
    rng = world.rng("parallel")
    asked = [world.numbered(rng, CHUNKS) for _ in range(count)]
    experts = {f"expert{number}": name for number, name in enumerate(EXPERTS)}
    return [Case({"question": one.question, "chunks": list(one.passages), **experts}) for one in asked]


WORKLOADS: Final = (
    Workload(
        "experts", "Helium", f"{len(EXPERTS)} experts on the same passages, combine", EXPERT_PANEL, _panels
    ),
    Workload("debate", "Helium", f"{AGENTS} agents, 2 rounds, combine", _debate(), _debates),
    Workload("reflect", "Helium", "an expert, 2 critics, the expert again", REFLECT, _debates),
    Workload("iterative", "Helium", f"an answer refined over {CHUNKS} passages", ITERATIVE, _chunks),
    Workload(
        "parallel", "Helium", f"{len(EXPERTS)} experts by {CHUNKS} passages, combine", _parallel(), _readings
    ),
)
