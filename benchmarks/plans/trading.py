"""Helium's trading workflow: nineteen agents who make eighty-eight calls about one item.

Four analysts take notes of four statements, two market reports, eight pieces of news and eight posts, and
each sums up its own; two researchers debate the reports in two rounds before a manager; each of seven
traders decides by the manager's plan, three risk analysts debate every decision in two rounds, a judge
settles it, and a fund manager combines the seven. The agents are the paper's; its items are stocks with
reports, these ask one question about passages of a world, which is what the reference model can read.
"""

from __future__ import annotations

from typing import Final

from weft.apps.instructions import ANSWER, BRIEF, COMBINE

from .language import ITEM, Ask, Each, Plan, Step
from .workload import Case, Workload, World, combined

__all__ = ["WORKLOADS"]

SOURCES: Final = {"statements": 4, "market": 2, "news": 8, "posts": 8}
"""What the analysts read, and how many pieces of it."""
RESEARCHERS: Final = ("bull", "bear")
RISKS: Final = ("risky", "safe", "neutral")
TRADERS: Final = (
    "a value investor",
    "a growth investor",
    "a day trader",
    "a swing trader",
    "a macro trader",
    "a dividend investor",
    "an index trader",
)
ROUNDS: Final = 2

_TOKENS: Final = 24
_REPORTS: Final = "\n".join(f"[{place}] {{{source}_report}}" for place, source in enumerate(SOURCES, 1))


def _analyst(source: str) -> tuple[Step, Step]:
    """Notes of every piece, and a report of the notes."""
    system = f"You are the analyst of {source}. {BRIEF}"
    note = Ask(
        "note", (("system", system), ("user", f"Context:\n{{{ITEM}}}\n\nQuestion: {{question}}")), _TOKENS
    )
    notes, prompt = f"{source}_notes", f"Question: {{question}}\nPartial answers:\n{{{source}_notes}}"
    report = Ask(
        f"{source}_report",
        (("system", f"You are the analyst of {source}. {COMBINE}"), ("user", prompt)),
        _TOKENS,
    )
    return Each(notes, source, Plan((ITEM, "question"), (note,), "note")), report


def _debate(agents: tuple[str, ...], about: str, extra: str = "") -> list[Ask]:
    """Rounds in which everyone hears what the others said in the round before."""
    said = {agent: [("system", f"You are the {agent} {about}. {ANSWER}")] for agent in agents}
    for agent in agents:
        said[agent].append(("user", f"Passages:\n{_REPORTS}\n\nQuestion: {{question}}{extra}"))
    steps = [Ask(f"{agent}1", tuple(said[agent]), _TOKENS) for agent in agents]
    for round_ in range(2, ROUNDS + 1):
        for agent in agents:
            others = "\n".join(f"- {{{other}{round_ - 1}}}" for other in agents if other != agent)
            said[agent].append(("assistant", f"{{{agent}{round_ - 1}}}"))
            said[agent].append(("user", f"The others have said:\n{others}\nQuestion: {{question}}"))
        steps += [Ask(f"{agent}{round_}", tuple(said[agent]), _TOKENS) for agent in agents]
    return steps


def _heard(agents: tuple[str, ...]) -> list[str]:
    return [f"{{{agent}{round_}}}" for round_ in range(1, ROUNDS + 1) for agent in agents]


_DECISION: Final = Ask(
    "decision",
    (
        ("system", f"You are {{{ITEM}}}. {BRIEF}"),
        ("user", "Context:\n{plan}\n\nQuestion: {question}"),
    ),
    _TOKENS,
)
_TRADER: Final = Plan(
    (ITEM, "question", "plan", *(f"{source}_report" for source in SOURCES)),
    (
        _DECISION,
        *_debate(RISKS, "risk analyst", " The trader has said: {decision}"),
        combined("settled", _heard(RISKS)),
    ),
    "settled",
)
TRADING: Final = Plan(
    ("question", *SOURCES, "traders"),
    (
        *(step for source in SOURCES for step in _analyst(source)),
        *_debate(RESEARCHERS, "researcher"),
        combined("plan", _heard(RESEARCHERS)),
        Each("settled", "traders", _TRADER),
        combined("answer", [f"{{settled[{place}]}}" for place in range(len(TRADERS))]),
    ),
    "answer",
    frozenset({*SOURCES, "traders"}),
)


def _items(world: World, count: int) -> list[Case]:
    rng = world.rng("trading")
    cases: list[Case] = []
    for _ in range(count):
        asked = world.numbered(rng, sum(SOURCES.values()))
        pieces = iter(asked.passages)
        read = {source: [next(pieces) for _ in range(many)] for source, many in SOURCES.items()}
        cases.append(Case({"question": asked.question, "traders": list(TRADERS), **read}))
    return cases


WORKLOADS: Final = (
    Workload(
        "trading", "Helium", "19 agents, 88 calls: notes, reports, two debates, 7 traders", TRADING, _items
    ),
)
