"""Other ways to put a prompt: what a reply must not depend on is varied, so that the model does not mind it.

Passages are numbered and set apart in other ways, headings are in other words and cases, lines end with or
without a full stop, there are more or fewer spaces, sentences about nothing before or between passages, and
other sentences around the instruction. What is said, and the numbers to cite, stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Final

from .passages import filler
from .samples import Sample

__all__ = ["vary"]

_RATE: Final = 0.22
"""Of each variation, in a prompt that is varied."""

_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "Passages": ("Context", "Sources", "Text", "Search results", "Numbered passages", "References"),
    "Context": ("Passages", "Text", "Sources", "Background"),
    "Documents": ("Passages", "Files", "Sources"),
    "Question": ("Q", "Query", "User question", "Task", "The question"),
    "Passage": ("Text", "Document", "Source", "Paragraph"),
    "Previous answer": ("Answer so far", "Existing answer", "Draft", "Old answer"),
    "New passage": ("More context", "Next passage", "New text", "Passage"),
    "Proposed answer": ("Answer", "Candidate", "Candidate answer", "Suggested answer"),
    "Partial answers": ("Answers", "Candidates", "Results", "Answers of the workers"),
    "Chat history": ("History", "Conversation", "Conversation so far"),
    "Follow-up question": ("Follow-up", "Last question", "Next question"),
    "Topic": ("Subject", "Title", "Topic of the article"),
    "Observation": ("Result", "Tool result", "Output", "Search result"),
    "The debaters have said": ("Others have answered", "Answers of the others", "What the others said"),
}
_LABEL: Final = re.compile(rf"^({'|'.join(map(re.escape, _WORDS))}):(?= |\n|$)", re.MULTILINE)
_MARK: Final = re.compile(r"(?:^|(?<=: ))\[(\d+)\] ", re.MULTILINE)
_BEFORE_MARK: Final = re.compile(r"\n(?=\[\d+\] )")
_MARKS: Final = (
    "({}) ",
    "{}. ",
    "{}) ",
    "[{}]\n",
    "[{}] - ",
    "Passage {}: ",
    "- [{}] ",
    "* [{}] ",
    "[{}]  ",
    "[{}]",
)
_BETWEEN: Final = ("\n\n", "\n\n", "\n---\n", " \n", "\n\n\n", "\n\n---\n\n", "\n ")
_BULLETS: Final = ("* ", "+ ", "", "-", "  - ", "> ")
_UNSTOPPED: Final = re.compile(r"(?<=[\w\]%)])$", re.MULTILINE)
_ACTIONS: Final = re.compile(r"^Action: ", re.MULTILINE)
_PREFACES: Final = (
    "Here is what I have.", "Please read this.", "Some texts follow.", "This is what was found.", "Hello!",
    "I need some help.", "Below is all that is known.",
)  # fmt: skip
_CLOSINGS: Final = ("\nAnswer:", "\nReply:", "\n", " ", "\n\nAnswer:", "\nYour answer:", "\nPlease answer.")
_AROUND: Final = (
    "You are a helpful assistant.", "You are a careful assistant.", "Be brief.", "Answer in English.",
    "Follow the instruction exactly.", "Do not explain.", "You work with texts.", "Be precise.",
    "Do not make anything up.", "You are an expert.", "This matters to me.", "Give no comments.",
)  # fmt: skip


def vary(rng: Random, sample: Sample) -> None:
    """Put a sample in other ways, alike in all its turns; about three in four samples change."""
    before, found, after = sample.shared.partition(sample.read) if sample.read else (sample.shared, "", "")
    for change in _changes(rng, sample):
        before, found, after = change(before), change(found), change(after)
        for branch in sample.branches:
            branch.turns = [(change(user), reply) for user, reply in branch.turns]
    if found and rng.random() < _RATE:
        preface = _about_nothing(rng)
        before = preface + rng.choice(("\n", "\n", " ")) + before
    sample.shared, sample.read = before + found + after, found
    if rng.random() < _RATE:
        _close(rng, sample)
    if sample.system and rng.random() < 2 * _RATE:
        sample.system = _around(rng, sample.system)


def _changes(rng: Random, sample: Sample) -> list[Callable[[str], str]]:
    """Changes of texts, each of which may be cut anywhere between lines."""
    drawn = [make for make in _MAKERS if rng.random() < _RATE]
    tasks = {branch.task for branch in sample.branches}
    if not tasks & {"standalone", "expand", "agent"} and rng.random() < _RATE:
        drawn.append(_questions)
    return [make(rng) for make in drawn]


def _labels(rng: Random) -> Callable[[str], str]:
    words = {label: rng.choice((label, *others)) for label, others in _WORDS.items()}
    form = rng.choice(
        ("{}:", "{}:", "{}:", "{}:", "# {}\n", "## {}:", "**{}**:", "{} -", "{}:\n", "[{}]", "{} :")
    )
    case: Callable[[str], str] = rng.choice((str, str, str.lower, str.upper, str.title))

    def change(text: str) -> str:
        return _LABEL.sub(lambda match: form.format(case(words[match[1]])), text).replace("\n \n", "\n\n")

    return change


def _marks(rng: Random) -> Callable[[str], str]:
    mark = rng.choice(_MARKS)
    return lambda text: _MARK.sub(lambda match: mark.format(match[1]), text)


def _separators(rng: Random) -> Callable[[str], str]:
    between = rng.choice(_BETWEEN)
    return lambda text: _BEFORE_MARK.sub(between, text)


def _fillers(rng: Random) -> Callable[[str], str]:
    """Sentences about nothing between some of the passages, which stand further from each other so."""
    rate = rng.choice((0.2, 0.5))

    def between(match: re.Match[str]) -> str:
        return f"\n{_about_nothing(rng)}\n" if rng.random() < rate else match[0]

    return lambda text: _BEFORE_MARK.sub(between, text)


def _bullets(rng: Random) -> Callable[[str], str]:
    bullet = rng.choice(_BULLETS)
    return lambda text: re.sub(r"^- (?!\[)", bullet, text, flags=re.MULTILINE)


def _stops(rng: Random) -> Callable[[str], str]:
    """Something behind each line that ends without a stop, or no full stop at the ends of lines."""
    stop = rng.choice((".", ".", ".", ",", " .", None))

    def change(text: str) -> str:
        if _ACTIONS.search(text):
            return text
        return re.sub(r"\.$", "", text, flags=re.MULTILINE) if stop is None else _UNSTOPPED.sub(stop, text)

    return change


def _spaces(rng: Random) -> Callable[[str], str]:
    old, new = rng.choice(
        (
            (". ", ".  "),
            ("\n", "\n "),
            ("\n", " \n"),
            ("\n", "\n  "),
            ("\n\n", "\n"),
            ("\n\n", "\n\n\n"),
            (": ", ":  "),
        )
    )
    return lambda text: text.replace(old, new)


def _questions(rng: Random) -> Callable[[str], str]:
    """Questions without their mark, or politer."""
    end = rng.choice(("", "", " ?", "??", "? Please answer.", "?  ", ", please?"))
    return lambda text: re.sub(r"\?$", end, text, flags=re.MULTILINE)


_MAKERS: Final = (_separators, _fillers, _marks, _labels, _bullets, _stops, _spaces)
"""In this order: marks are found by their usual form, and labels begin their lines."""


def _about_nothing(rng: Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(_PREFACES)
    return " ".join(filler(rng) for _ in range(rng.choice((1, 1, 2, 3, 5))))


def _close(rng: Random, sample: Sample) -> None:
    """Something behind the question, unless actions follow."""
    closing = rng.choice(_CLOSINGS)
    for branch in sample.branches:
        if branch.task != "agent":
            branch.turns = [(user + closing, reply) for user, reply in branch.turns]


def _around(rng: Random, system: str) -> str:
    """The instruction between other sentences, or written otherwise."""
    match rng.randrange(5):
        case 0:
            return f"{rng.choice(_AROUND)} {system}"
        case 1:
            return (
                f"{system} {rng.choice(_AROUND)}"
                if system.endswith(".")
                else f"{system}. {rng.choice(_AROUND)}"
            )
        case 2:
            return system.removesuffix(".")
        case 3:
            return system.lower() if rng.random() < 0.5 else f"{system}\n"
        case _:
            return f"{rng.choice(_AROUND)}\n{rng.choice(_AROUND)}\n\n{system}"
