"""Evaluation prompts, cut where a cache of passages would cut them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from weft.apps.reference_model.training.encoder import ASSISTANT, BOS, END, SYSTEM, USER, Encoder
from weft.apps.reference_model.training.evaluate import GROUPS, Case, cases

__all__ = ["Prompt", "prompts"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens of the instruction, of each passage, of the question, and of the right reply with its end."""

    head: list[int]
    chunks: list[list[int]]
    tail: list[int]
    reply: list[int]

    @property
    def tokens(self) -> list[int]:
        """All but the reply."""
        return [*self.head, *(token for chunk in self.chunks for token in chunk), *self.tail]

    @property
    def starts(self) -> list[int]:
        """Where each chunk begins."""
        found, at = [], len(self.head)
        for chunk in self.chunks:
            found.append(at)
            at += len(chunk)
        return found

    @property
    def end(self) -> int:
        """Where the chunks end and the question begins."""
        return len(self.head) + sum(map(len, self.chunks))


def prompts(group: str, count: int) -> Iterator[Prompt]:
    """So many of a group of the evaluation, with canonical instructions."""
    encode = Encoder()
    for case in cases(GROUPS[group], count, 1.0):
        yield _cut(case, encode)


def _cut(case: Case, encode: Encoder) -> Prompt:
    sample = case.sample
    heading, _, question = sample.shared.partition(sample.read)
    head = [BOS, SYSTEM, *encode(sample.system), END, USER, *encode(heading)]
    chunks = [encode(line + "\n") for line in sample.read.split("\n")]
    user, _ = case.branch.turns[0]
    tail = [*encode(question[1:] + user), END, ASSISTANT]
    whole, reply = case.tokens(encode)
    prompt = Prompt(head, chunks, tail, reply)
    assert prompt.tokens == whole, "a passage must have the same tokens alone as in a prompt"
    return prompt
