"""Answer multiple-choice questions after some examples, by the likelihoods of the letters (as in MMLU)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from weft import Context, program

LETTERS: Final = ("A", "B", "C", "D")
INSTRUCTION: Final = "Answer the multiple-choice question with the letter of the right choice."


@dataclass(frozen=True)
class Example:
    """A question with its four choices, and the letter of the right one."""

    question: str
    choices: tuple[str, str, str, str]
    letter: str


EXAMPLES: Final = (
    Example("How many sides has a hexagon?", ("four", "five", "six", "eight"), "C"),
    Example("Which gas do plants take in?", ("carbon dioxide", "oxygen", "nitrogen", "helium"), "A"),
    Example("What is the chemical symbol of iron?", ("Ir", "Fe", "In", "Au"), "B"),
)


@program
def choose(question: str, choices: list[str]) -> str:
    """The letter of the likeliest of four `choices`. The examples that all share are read once."""
    context = Context(system=INSTRUCTION)
    for example in EXAMPLES:
        context.user(_asked(example.question, example.choices)).assistant(example.letter)
    return context.user(_asked(question, [choices[place] for place in range(4)])).select(LETTERS)


def _asked(question: str, choices: Sequence[str]) -> str:
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return f"Question: {question}\n{listed}"
