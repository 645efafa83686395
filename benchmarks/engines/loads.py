"""What the engines are asked: made-up prompts, new in every repeat: only a load's own sharing counts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["LOADS", "Load", "Turn", "reply_to"]

Ids = list[int]


@dataclass(frozen=True, slots=True)
class Turn:
    """The next message of a conversation, and the length of the answer."""

    ids: Ids
    answer: int


Rounds = Sequence[Sequence[Turn]]
"""Turns that are asked together, round after round; a conversation keeps its place in them."""


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of work."""

    what: str
    make: Callable[[random.Random, int], Rounds]
    """From a source of chance and the size of the vocabulary."""
    counts_prompts: bool = False
    """Whether speed is that of reading, not of writing."""


def reply_to(
    rounds: Rounds, run: Callable[[list[Ids], list[int]], tuple[float, list[Ids]]]
) -> tuple[float, list[Ids]]:
    """Hold the conversations: seconds in all, and the answers of each to every turn, one after the other."""
    histories: list[Ids] = [[] for _ in rounds[0]]
    answers: list[Ids] = [[] for _ in rounds[0]]
    seconds = 0.0
    for turns in rounds:
        prompts = [history + turn.ids for history, turn in zip(histories, turns, strict=True)]
        took, replies = run(prompts, [turn.answer for turn in turns])
        seconds += took
        histories = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
        answers = [answer + reply for answer, reply in zip(answers, replies, strict=True)]
    return seconds, answers


def _ids(chance: random.Random, vocab: int, length: int) -> Ids:
    return chance.choices(range(3, vocab), k=length)


def _single(chance: random.Random, vocab: int) -> Rounds:
    return [[Turn(_ids(chance, vocab, 128), 128)]]


def _mixed(chance: random.Random, vocab: int) -> Rounds:
    return [[Turn(_ids(chance, vocab, chance.randint(32, 224)), chance.randint(16, 112)) for _ in range(16)]]


def _reading(chance: random.Random, vocab: int) -> Rounds:
    return [[Turn(_ids(chance, vocab, 2000), 1)]]


def _families(chance: random.Random, vocab: int) -> Rounds:
    heads = [_ids(chance, vocab, 1000) for _ in range(8)]
    turns = [Turn(head + _ids(chance, vocab, 20), 16) for head in heads for _ in range(4)]
    chance.shuffle(turns)
    return [turns]


def _conversations(chance: random.Random, vocab: int) -> Rounds:
    first = [Turn(_ids(chance, vocab, 300), 32) for _ in range(4)]
    return [first, *([Turn(_ids(chance, vocab, 40), 32) for _ in range(4)] for _ in range(5))]


LOADS = {
    "single": Load("one request, 128 tokens in, 128 out", _single),
    "mixed": Load("16 requests at once, 32 to 224 tokens in, 16 to 112 out", _mixed),
    "reading": Load("one prompt of 2,000 tokens, 1 out", _reading, counts_prompts=True),
    "families": Load("32 requests at once, 4 each with one of 8 heads of 1,000 tokens, 16 out", _families),
    "conversations": Load("4 conversations at once, 6 turns, 32 tokens out in each", _conversations),
}
"""Every load, by name."""
