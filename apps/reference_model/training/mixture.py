"""Which tasks the model is trained on, and when: from few passages to many."""

from __future__ import annotations

from random import Random
from typing import Final

from . import agent, answers, passage_tasks, question_tasks, records
from .contexts import Length
from .samples import PROMPTS, Sample
from .wording import vary

__all__ = ["draw"]

_SHARES: Final = {
    "answers": 50,
    "overwrites": 7,
    "aliases": 11,
    "judgements": 7,
    "outlines": 6,
    "summaries": 4,
    "refinements": 5,
    "relevance": 4,
    "expansions": 2,
    "standalone": 2,
    "combinations": 3,
    "actions": 10,
}
_FEWEST: Final = 4
_MOST: Final = 16
"""Passages that a sample may have at the beginning, and at the end."""
_LATE: Final = 0.4
"""From here on what is still wrong is two hops, code names and corrections, in many passages, and actions."""
_LATE_SHARES: Final[dict[str, float]] = {
    "answers": 58,
    "overwrites": 8,
    "aliases": 15,
    "judgements": 5,
    "outlines": 3,
    "summaries": 5,
    "refinements": 4,
    "relevance": 2,
    "expansions": 1,
    "standalone": 2,
    "combinations": 2,
    "actions": 13,
}
_LAST: Final = 2 / 3
"""From here on more of what apps chain, where one wrong step of several spoils the answer."""
_LAST_SHARES: Final = {**_LATE_SHARES, "actions": 19, "summaries": 6}
_VARIED: Final = 0.4
"""How many prompts are put in other ways, once the model can read."""
_VARIED_FROM: Final = 0.07
_READ_APART: Final = 0.12
"""How many contexts with look-ups by name only are read passage by passage."""
_FIRST_QUESTIONS: Final[dict[answers.Question, int]] = {
    "single": 70,
    "reverse": 10,
    "two_hops": 8,
    "absent": 10,
    "absent_two_hops": 2,
}
_QUESTIONS: Final[dict[answers.Question, int]] = {
    "single": 34,
    "reverse": 8,
    "two_hops": 34,
    "absent": 16,
    "absent_two_hops": 8,
}
_LATE_QUESTIONS: Final[dict[answers.Question, int]] = {
    "single": 20,
    "reverse": 6,
    "two_hops": 50,
    "absent": 12,
    "absent_two_hops": 12,
}
"""From `_LATE` on; a context without two facts that lead to each other has other questions instead."""
_LOOK_UPS: Final[dict[answers.Question, int]] = {"single": 65, "reverse": 10, "absent": 25}
_RECOGNIZABLE: Final = {"answers", "judgements", "outlines", "refinements", "standalone", "combinations"}
"""The user message alone tells these apart."""
_GENERIC: Final = (
    "",
    "",
    "You are a helpful assistant.",
    "You are a careful assistant.",
    "Help the user.",
    "You work with texts. Be brief.",
)
_UNRECOGNIZABLE_TASKS: Final = {"plain", "steps"}


def draw(rng: Random, progress: float) -> Sample:
    """A sample; `progress`, from 0 to 1, is the share of the training that is done."""
    most = _most_passages(progress)
    shares = _SHARES if progress < _LATE else _LATE_SHARES if progress < _LAST else _LAST_SHARES
    early = most == _FEWEST and rng.random() < 0.7
    family = "answers" if early else rng.choices(list(shares), list(shares.values()))[0]
    sample = _sample(rng, family, most)
    if progress >= _VARIED_FROM and rng.random() < _VARIED:
        vary(rng, sample)
    _place_instruction(rng, sample, family)
    return sample


def _most_passages(progress: float) -> int:
    """Few at first: a model that has to find one of many learns nothing until it can find one of three."""
    for until, most in ((0.03, _FEWEST), (0.07, 6), (0.11, 9), (_LATE, 12)):
        if progress < until:
            return most
    return _MOST


def _sample(rng: Random, family: str, most: int) -> Sample:
    passages = rng.randint(1, most)
    if most == _MOST and rng.random() < 0.6:  # what is hard is to choose among many
        passages = max(passages, rng.randint(4, most))
    match family:
        case "answers":
            return _answers(rng, passages, most)
        case "overwrites":
            passages, length = _size(rng, max(2, passages), most, many=0.14)
            return records.overwrites(rng, passages, rng.randint(8, 16), length=length)
        case "aliases":
            passages, length = _size(rng, max(3, passages), most, many=0.25)
            return records.aliases(rng, passages, rng.randint(8, 16), length=length)
        case "judgements":
            return answers.judgements(rng, passages, rng.randint(6, 14))
        case "outlines":
            return answers.outlines(rng, passages, 4)
        case "summaries":
            if rng.random() < 0.15:
                return passage_tasks.situations(rng, rng.randint(3, 6))
            return passage_tasks.summaries(rng, rng.randint(4, 8), in_parts=0.5)
        case "refinements":
            return passage_tasks.refinements(rng, rng.randint(4, 8), surrounded=0.4)
        case "relevance":
            return passage_tasks.relevance(rng, rng.randint(4, 8))
        case "expansions":
            return question_tasks.expansions(rng, rng.randint(4, 8))
        case "standalone":
            return question_tasks.standalone(rng, rng.randint(4, 8))
        case "combinations":
            return question_tasks.combinations(rng, rng.randint(4, 8))
        case "actions":
            return agent.actions(rng, rng.randint(4, 8), ranked=0.5)
        case _:
            raise AssertionError(family)


def _answers(rng: Random, passages: int, most: int) -> Sample:
    if rng.random() < 0.01:
        return answers.nothing_found(rng, 3)
    first = most == _FEWEST
    passages, length = _size(rng, passages, most)
    if not first and rng.random() < _READ_APART:
        sample = answers.answers(
            rng,
            passages,
            rng.randint(8, 18),
            kinds=_LOOK_UPS,
            steps=0,
            plain=0.15,
            multi_turn=0,
            anaphora=0,
            length=length,
        )
        sample.apart = True
        return sample
    late = most == _MOST
    return answers.answers(
        rng,
        max(2, passages) if first else passages,
        rng.randint(10, 24) if late else rng.randint(8, 18),
        kinds=_FIRST_QUESTIONS if first else _LATE_QUESTIONS if late else _QUESTIONS,
        plain=0.1,
        question_first=0.04 if passages < 9 else 0.0,
        length=length,
        chain=rng.choice((0.5, 0.8, 0.8) if late else (0.5, 0.8)),
        focus=0.8 if first else 0.4 if late else 0.3,
        debated=0.0 if first else 0.05,
        joined=0.0 if first else 0.06,
    )


def _size(rng: Random, passages: int, most: int, many: float = 0.09) -> tuple[int, Length]:
    """So many passages, or many more, or few long ones, once the curriculum has come so far.

    `many` is how often there are up to 33 short ones then.
    """
    draw = rng.random()
    if most == _FEWEST:
        return passages, "short" if draw < 0.7 else "usual"
    if most < 12:
        return passages, "short" if draw < 0.2 else "usual"
    if draw < 0.08:
        return rng.randint(13, 28), "usual"
    if draw < 0.08 + many:
        return rng.randint(4, 33), "short"
    if draw < 0.15 + many:
        return rng.randint(2, 9), "long"
    return passages, "usual"


def _place_instruction(rng: Random, sample: Sample, family: str) -> None:
    """Now and then move the instruction to the user message, or leave it out."""
    draw = rng.random()
    if draw < 0.06:
        sample.shared = f"{sample.system}\n\n{sample.shared}"
        sample.system = ""
    elif draw < 0.12 and family in _RECOGNIZABLE:
        said = sample.system.lower()
        told = any(words.lower().removesuffix(".") in said for words in PROMPTS["steps"] + PROMPTS["plain"])
        if not told and all(branch.task not in _UNRECOGNIZABLE_TASKS for branch in sample.branches):
            sample.system = rng.choice(_GENERIC)
