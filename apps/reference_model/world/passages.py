"""English passages that state facts.

A passage has one subject, states some facts about it, and has neutral sentences between. One that continues
another says "the firm" or "it" in place of the name: it can only be understood with the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .schema import KINDS
from .world import Entity, Fact

__all__ = [
    "PRONOUNS",
    "Forms",
    "Passage",
    "first_forms",
    "later_forms",
    "noun_forms",
    "opening",
    "state",
    "write_passage",
]

Forms = dict[str, str]
"""The fields of a template that stand for the subject."""

_OBJECT = {"it": "it", "she": "her", "he": "him"}
_POSSESSIVE = {"it": "its", "she": "her", "he": "his"}
_SUBJECT_FIELDS = ("{S}", "{s}", "{P}", "{p}", "{o}", "{n}")


@dataclass(frozen=True, eq=False, slots=True)
class Passage:
    """A text about one subject, and the facts that it states."""

    subject: Entity
    facts: tuple[Fact, ...]
    text: str
    continues: bool
    """It does not name its subject; the passage before it does."""


def noun_forms(noun: str) -> Forms:
    """The fields for a subject that is written as a noun phrase."""
    owner = noun + ("'" if noun.endswith("s") else "'s")
    return {
        "S": noun[0].upper() + noun[1:],
        "s": noun,
        "o": noun,
        "n": noun,
        "P": owner[0].upper() + owner[1:],
        "p": owner,
    }


PRONOUNS: dict[str, Forms] = {
    pronoun: {
        "S": pronoun.capitalize(),
        "s": pronoun,
        "o": _OBJECT[pronoun],
        "P": _POSSESSIVE[pronoun].capitalize(),
        "p": _POSSESSIVE[pronoun],
    }
    for pronoun in ("it", "she", "he")
}
"""The fields for a subject that is written as a pronoun."""


def write_passage(
    rng: Random, subject: Entity, facts: Sequence[Fact], *, continues: bool, fillers: int
) -> Passage:
    """State the facts in their order, with so many neutral sentences between them."""
    first = first_forms(rng, subject, continues)
    text: list[str] = []
    rest = list(facts)
    if not continues and rng.random() < 0.35:
        used = 2 if len(rest) > 1 and rng.random() < 0.7 else 1
        text.append(opening(rng, rest[:used], first, KINDS[subject.kind].introductions))
        rest = rest[used:]
    else:
        text.append(state(rng, rest.pop(0), first, naming=True))
    text += [state(rng, fact, later_forms(rng, subject, first, continues)) for fact in rest]
    for filler in rng.sample(KINDS[subject.kind].fillers, fillers):
        at = rng.randint(1, len(text))
        text.insert(at, filler.format_map(later_forms(rng, subject, first, continues)))
    return Passage(subject, tuple(facts), " ".join(text), continues)


def first_forms(rng: Random, subject: Entity, continues: bool) -> Forms:
    """The fields for the subject in the first sentence of its passage."""
    if not continues:
        return noun_forms(subject.ref)
    if subject.kind == "person" or rng.random() < 0.25:
        return PRONOUNS[subject.pronoun]
    return noun_forms(f"the {subject.noun}")


def later_forms(rng: Random, subject: Entity, first: Forms, continues: bool) -> Forms:
    """The fields for the subject in the sentences after the first."""
    draw = rng.random()
    if draw < 0.5 or (continues and subject.kind == "person"):
        return PRONOUNS[subject.pronoun]
    if subject.kind == "person":
        return noun_forms(subject.name.split()[-1]) if draw < 0.7 else first
    return noun_forms(f"the {subject.noun}") if draw < 0.75 or continues else first


def state(rng: Random, fact: Fact, forms: Forms, *, naming: bool = False) -> str:
    """A sentence that states the fact; if `naming`, one that mentions the subject."""
    options = [template for template in fact.relation.sentences if "n" in forms or "{n}" not in template]
    if naming:
        options = [template for template in options if any(field in template for field in _SUBJECT_FIELDS)]
    return _filled(rng.choice(options), fact, forms)


def opening(rng: Random, facts: Sequence[Fact], forms: Forms, introductions: Sequence[str]) -> str:
    """A first sentence that introduces the subject and states one or two facts as modifiers."""
    modifier = " and ".join(_filled(rng.choice(fact.relation.clauses), fact, {}) for fact in facts)
    what = rng.choice(introductions)
    if rng.random() < 0.35:
        return f"{modifier[0].upper()}{modifier[1:]}, {forms['s']} is {what}."
    return f"{forms['S']}, {modifier}, is {what}."


def _filled(template: str, fact: Fact, forms: Forms) -> str:
    value = fact.value.text
    return template.format(v=value, a="an" if value[0] in "aeiou" else "a", **forms)
