"""Prompts put in ways that training has never seen: how much do the replies mind?

Each perturbation changes the messages of a case and not what they say, so the right reply stays. Their forms
and words are none of those in `wording.py`: what is measured is robustness, not memory.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

from .samples import PROMPTS, Branch, Sample

__all__ = ["PERTURBATIONS", "perturbed"]

Change = Callable[[Random, str], str]
"""Of the content of one message."""

_UNSEEN: Final[dict[str, str]] = tomllib.loads(
    (Path(__file__).parent / "unseen.toml").read_text(encoding="utf-8")
)
"""An instruction for each prompt in words that training does not have."""
_PROMPT_OF: Final = {words: prompt for prompt, options in PROMPTS.items() for words in options}
_LABEL: Final = re.compile(r"^([A-Z][A-Za-z -]{3,20}):(?= |\n|$)", re.MULTILINE)
_NUMBER: Final = re.compile(r"(?:^|(?<=: ))\[(\d+)\] ", re.MULTILINE)
_ANOTHER: Final = re.compile(r"\n(?=\[\d+\] )")
_HEADINGS: Final = ("~ Page {} ~", "Part {}", "== {} ==", "From file {}.txt")
_REMARKS: Final = (
    "Good morning, I would like to know something.",
    "My colleague has collected the following for me.",
    "I have copied this from our wiki, so please bear with the format.",
)
_THANKS: Final = (
    "\nThanks in advance!",
    "\nI am in a hurry.",
    "\n\nKind regards",
    "\nPlease help me with this one.",
)


def _ends(rng: Random, text: str) -> str:
    return re.sub(r"(?<=[\w\])])$", rng.choice((" !", ";;", " ...")), text, flags=re.MULTILINE)


def _numbers(rng: Random, text: str) -> str:
    form = rng.choice(("[{}]: ", "[{}] > ", "No. [{}] ", "{}: "))
    return _NUMBER.sub(lambda match: form.format(match[1]), text)


def _separators(rng: Random, text: str) -> str:
    return _ANOTHER.sub(rng.choice(("\n***\n", "\n\n\n\n", "\n=====\n\n")), text)


def _headings(rng: Random, text: str) -> str:
    """Headings without a meaning between passages, which stand further apart so."""
    form = rng.choice(_HEADINGS)
    return _ANOTHER.sub(lambda _: f"\n\n{form.format(rng.randint(1, 99))}\n", text)


def _labels(rng: Random, text: str) -> str:
    form = rng.choice(("<{}> ", "{} =>", "{}::", "[[{}]]:"))
    return _LABEL.sub(lambda match: form.format(match[1]), text)


def _spaces(rng: Random, text: str) -> str:
    old, new = rng.choice((("\n", "\n\t"), ("\n", "\n    "), ("\n", "   \n"), (". ", ".\n")))
    return text.replace(old, new) if "Action: " not in text else text


def _bullets(rng: Random, text: str) -> str:
    return re.sub("^- ", rng.choice(("o ", "=> ", "# ", "a) ")), text, flags=re.MULTILINE)


def _talk(rng: Random, text: str) -> str:
    return f"{rng.choice(_REMARKS)}\n\n{text}{rng.choice(_THANKS)}"


PERTURBATIONS: Final[dict[str, Change | None]] = {
    "none": lambda _, text: text,
    "ends of lines": _ends,
    "numbers": _numbers,
    "separators": _separators,
    "headings between": _headings,
    "labels": _labels,
    "spaces": _spaces,
    "bullets": _bullets,
    "talk around": _talk,
    "instruction in new words": None,
    "three of these": lambda rng, text: _several(rng, text),
}
"""By name; without a function it is the system message that changes."""
_TEXTUAL: Final = (_ends, _numbers, _separators, _headings, _labels, _spaces, _bullets, _talk)


def _several(rng: Random, text: str) -> str:
    chosen = rng.sample(range(len(_TEXTUAL)), 3)
    for index in sorted(chosen, key=(2, 3, 1, 4, 0, 6, 5, 7).index):  # what others would hide comes first
        text = _TEXTUAL[index](rng, text)
    return text


def perturbed(sample: Sample, name: str, rng: Random) -> Sample | None:
    """The sample with its user's messages, or its instruction, put otherwise; None if nothing changes."""
    change = PERTURBATIONS[name]
    if change is None:
        return replace(sample, system=_UNSEEN[_PROMPT_OF[sample.system]])
    seed = rng.random()  # all turns of a conversation are changed alike
    branches: list[Branch] = []
    for branch in sample.branches:
        (first, reply), *rest = branch.turns
        asked = [(sample.shared + first, reply), *rest]
        told = (
            len(asked) if name != "talk around" else 1
        )  # of a conversation, only the first message is polite
        turns = [(change(Random(seed), user), said) for user, said in asked[:told]] + asked[told:]
        if turns == asked and name != "none":
            return None
        branches.append(replace(branch, turns=turns))
    return replace(sample, shared="", read="", branches=branches)
