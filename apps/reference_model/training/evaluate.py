"""How often replies about worlds never seen are right, by task.

A reply is right if greedy decoding gives it: if each of its tokens is the likeliest after those before it.
That takes one pass over prompt and reply, and is the same as decoding and comparing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

import torch

from . import agent, answers, passage_tasks, question_tasks, records
from .contexts import Length
from .encoder import ASSISTANT, BOS, END, PAD, SYSTEM, USER, Encoder
from .feed import FIRST_HELD_OUT
from .network import Network, dense_mask
from .perturbations import perturbed
from .rows import BRANCHES, ROW
from .samples import Branch, Sample

__all__ = ["GROUPS", "Case", "Group", "cases", "evaluate", "perturbed_cases"]

_FIRST_SEED: Final = 2 * FIRST_HELD_OUT

Make = Callable[[Random, float], Sample]
"""Draws a sample; the number is how often it has the canonical system message."""


@dataclass(frozen=True)
class Group:
    """What a figure is about."""

    task: str
    make: Make
    notes: tuple[str, ...] = ()
    """Only branches with one of these notes, if there are any."""


@dataclass(frozen=True)
class Case:
    """A conversation to complete, with the right reply."""

    sample: Sample
    branch: Branch

    def tokens(self, encode: Encoder) -> tuple[list[int], list[int]]:
        """Of the prompt as the chat template renders it, and of the reply with the end after it."""
        messages, reply = self.sample.conversation(self.branch)
        prompt = [BOS]
        tags = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
        for message in messages:
            prompt += [tags[message["role"]], *encode(message["content"]), END]
        return [*prompt, ASSISTANT], [*encode(reply), END]


def cases(group: Group, count: int, canonical: float, seed: int = _FIRST_SEED) -> Iterator[Case]:
    """So many cases of worlds that training never saw."""
    rng = Random(seed)
    found = 0
    while found < count:
        sample = group.make(rng, canonical)
        fitting = [b for b in sample.branches if b.task == group.task]
        fitting = [b for b in fitting if not group.notes or b.note in group.notes]
        if fitting:
            found += 1
            yield Case(sample, rng.choice(fitting))


def perturbed_cases(name: str, groups: Sequence[Group], count: int) -> Iterator[Case]:
    """So many cases of all the groups, a perturbation applied to those that it changes."""
    rng = Random(_FIRST_SEED)
    found = 0
    while found < count:
        sizes = found
        for group in groups:
            (case,) = cases(group, 1, 1.0, seed=rng.randrange(_FIRST_SEED, 2 * _FIRST_SEED))
            one = Sample(case.sample.system, case.sample.shared, [case.branch], case.sample.read)
            changed = perturbed(one, name, rng)
            if changed is not None and found < count:
                found += 1
                yield Case(changed, changed.branches[0])
        if found == sizes:
            return


@torch.no_grad()
def evaluate(network: Network, cases: Sequence[Case], *, batch: int = 16) -> float:
    """The share of the cases that are answered right."""
    encode = Encoder()
    device = network.embedding.device
    pairs = sorted((case.tokens(encode) for case in cases), key=lambda pair: len(pair[0]) + len(pair[1]))
    pairs = [pair for pair in pairs if len(pair[0]) + len(pair[1]) <= ROW]
    right: Counter[bool] = Counter()
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        size = max(len(prompt) + len(reply) for prompt, reply in part)
        tokens = torch.full((len(part), size), PAD)
        groups = torch.zeros((len(part), size), dtype=torch.int32)
        for row, (prompt, reply) in enumerate(part):
            end = len(prompt) + len(reply)
            tokens[row, :end] = torch.tensor(prompt + reply)
            groups[row, :end] = BRANCHES
        positions = torch.arange(size).expand(len(part), size)
        hidden = network(tokens.to(device), positions.to(device), dense_mask(groups.to(device)))
        for row, (prompt, reply) in enumerate(part):
            said = hidden[row, len(prompt) - 1 : len(prompt) + len(reply) - 1]
            right[network.logits(said).argmax(-1).tolist() == reply] += 1
    return right[True] / right.total()


# ---- groups


def _answers(
    rng: Random,
    canonical: float,
    *,
    kinds: dict[answers.Question, int],
    low: int = 1,
    high: int = 12,
    steps: float = 0.0,
    plain: float = 0.0,
    length: Length = "usual",
) -> Sample:
    return answers.answers(
        rng,
        rng.randint(low, high),
        2,
        kinds=kinds,
        canonical=canonical,
        steps=steps,
        plain=plain,
        multi_turn=0.0,
        length=length,
    )


def _overwrites(rng: Random, canonical: float, *, low: int, high: int, length: Length) -> Sample:
    return records.overwrites(rng, rng.randint(low, high), 6, canonical=canonical, length=length)


def _aliases(rng: Random, canonical: float, *, low: int, high: int, length: Length) -> Sample:
    return records.aliases(rng, rng.randint(low, high), 6, canonical=canonical, length=length)


_ONE: Final[dict[answers.Question, int]] = {"single": 4, "reverse": 1}
_NAMED: Final[dict[answers.Question, int]] = {"single": 1}
_NONE: Final[dict[answers.Question, int]] = {"absent": 3, "absent_two_hops": 1}
_TWO: Final[dict[answers.Question, int]] = {"two_hops": 1}

GROUPS: Final[dict[str, Group]] = {
    "answer, 1-12 passages": Group("answer", partial(_answers, kinds=_ONE)),
    "answer, 13-22 passages": Group("answer", partial(_answers, kinds=_ONE, low=13, high=22)),
    "answer, 4-32 short distractors": Group(
        "answer", partial(_answers, kinds=_NAMED, low=5, high=33, length="short")
    ),
    "answer, long passages": Group("answer", partial(_answers, kinds=_NAMED, low=2, high=9, length="long")),
    "plain answer": Group("plain", partial(_answers, kinds=_ONE, plain=1.0)),
    "absent": Group("absent", partial(_answers, kinds=_NONE)),
    "two hops": Group("two_hops", partial(_answers, kinds=_TWO, low=2)),
    "two hops, step by step": Group("steps", partial(_answers, kinds=_TWO, low=2, steps=1.0)),
    "expand": Group("expand", lambda rng, canonical: question_tasks.expansions(rng, 1, canonical)),
    "summarize": Group("summarize", lambda rng, canonical: passage_tasks.summaries(rng, 1, canonical)),
    "refine": Group("refine", lambda rng, canonical: passage_tasks.refinements(rng, 1, canonical)),
    "agent, one message": Group(
        "agent", lambda rng, canonical: agent.actions(rng, 1, canonical, multi_turn=0.0)
    ),
    "agent, chat turns": Group(
        "agent", lambda rng, canonical: agent.actions(rng, 1, canonical, multi_turn=1.0)
    ),
    "judge": Group("judge", lambda rng, canonical: answers.judgements(rng, rng.randint(1, 12), 1, canonical)),
    "standalone": Group("standalone", lambda rng, canonical: question_tasks.standalone(rng, 1, canonical)),
    "combine": Group("combine", lambda rng, canonical: question_tasks.combinations(rng, 1, canonical)),
    "outline": Group(
        "outline", lambda rng, canonical: answers.outlines(rng, rng.randint(1, 12), 1, canonical)
    ),
    "relevance": Group("relevance", lambda rng, canonical: passage_tasks.relevance(rng, 1, canonical)),
    "direct, 4-16 passages": Group("answer", partial(_answers, kinds=_NAMED, low=4, high=16)),
    "overwrite, 4-16 passages": Group("overwrite", partial(_overwrites, low=4, high=16, length="usual")),
    "overwrite, 17-33 short passages": Group(
        "overwrite", partial(_overwrites, low=17, high=33, length="short")
    ),
    "alias, 4-16 passages": Group("alias", partial(_aliases, low=4, high=16, length="usual")),
    "alias, 17-33 short passages": Group("alias", partial(_aliases, low=17, high=33, length="short")),
    "chain forwards, 4-16 passages": Group(
        "two_hops", partial(_answers, kinds=_TWO, low=4, high=16), ("forwards",)
    ),
    "chain backwards, 4-16 passages": Group(
        "two_hops", partial(_answers, kinds=_TWO, low=4, high=16), ("backwards",)
    ),
}
"""The figures of the model card, by what they are about."""
