"""The passages of the training data: of more forms than the demo corpus has.

Most name their subject. Some continue the passage before them and say "the firm", "it" or "its founder";
some are notes; some are long, with the fact somewhere in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from ..world.passages import Forms, first_forms, later_forms, noun_forms, opening, state
from ..world.world import Entity, Fact
from .worlds import OPEN, kind_of

__all__ = ["Form", "Text", "filler", "notes", "write"]

Form = Literal["name", "generic", "role"]
"""How a passage mentions its subject: by name, as "the firm" or "it", or as "its founder"."""

_NOTES: Final = 0.05  # so many passages are in the form of notes
_FILLER: Final = OPEN["filler"]


@dataclass(frozen=True, eq=False, slots=True)
class Text:
    """A passage: a text about one subject, and the facts that it states."""

    subject: Entity
    facts: tuple[Fact, ...]
    text: str
    form: Form = "name"
    antecedent: Text | None = None
    """The passage that has to be read first, unless this one names its subject."""


def write(
    rng: Random,
    subject: Entity,
    facts: Sequence[Fact],
    *,
    form: Form = "name",
    antecedent: Text | None = None,
    role: str = "",
    other: Entity | None = None,
    fillers: int | None = None,
) -> Text:
    """State the facts in their order; `role` is that of the subject of a passage of that form.

    `other` is an entity to mention without stating anything of it, `fillers` the number of neutral sentences.
    """
    if form == "name" and fillers is None and rng.random() < _NOTES:
        return Text(subject, tuple(facts), notes(rng, subject, facts))
    continues = form != "name"
    if form == "role":
        assert antecedent is not None
        its = f"its {role}" if rng.random() < 0.6 else f"the {role} of the {antecedent.subject.noun}"
        first = noun_forms(its)
    else:
        first = first_forms(rng, subject, continues)

    def later() -> Forms:
        return later_forms(rng, subject, first, continues)

    sentences: list[str] = []
    rest = list(facts)
    if not continues and rng.random() < 0.35:
        used = 2 if len(rest) > 1 and rng.random() < 0.7 else 1
        sentences.append(opening(rng, rest[:used], first, kind_of(subject).introductions))
        rest = rest[used:]
    else:
        sentences.append(state(rng, rest.pop(0), first, naming=True))
    sentences += [state(rng, fact, later()) for fact in rest]
    if fillers is None:
        fillers = rng.choice((0, 1, 1, 2)) + max(0, 4 - len(facts))
    own = kind_of(subject).fillers
    for neutral in rng.sample(own, min(fillers, len(own))):
        at = rng.randint(1, len(sentences))
        sentences.insert(at, filler(rng) if rng.random() < 0.4 else neutral.format_map(later()))
    if other is not None:
        mention = rng.choice(_FILLER["mentions"]).format(other=other.ref, **later())
        sentences.insert(rng.randint(1, len(sentences)), mention)
    return Text(subject, tuple(facts), " ".join(sentences), form, antecedent)


def filler(rng: Random) -> str:
    """A sentence about nothing, of everyday words."""
    n1, n2, n3 = rng.sample(_FILLER["nouns"], 3)
    v1, v2 = rng.sample(_FILLER["verbs"], 2)
    a1, a2 = rng.sample(_FILLER["adjectives"], 2)
    shape: str = rng.choice(_FILLER["shapes"])
    return shape.format(n1=n1, n2=n2, n3=n3, v1=v1, v2=v2, a1=a1, a2=a2)


def notes(rng: Random, subject: Entity, facts: Sequence[Fact]) -> str:
    """The facts as in a data sheet or a summary of one line."""
    style = rng.random()
    if style < 0.4:
        return f"{subject.name}: " + "; ".join(f"{f.relation.label} = {f.value.text}" for f in facts)
    if style < 0.7:
        lines = (f"{f.relation.label.capitalize()}: {f.value.text}." for f in facts)
        return f"{subject.name}. " + " ".join(lines)
    return f"{subject.name} - " + ", ".join(f"{f.relation.label}: {f.value.text}" for f in facts)
