"""Comparing choices by the log-probabilities of their tokens; pure.

The three methods are those of SGLang's `choices` (Zheng et al., 2024): mean, greedy and unconditional.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from weft.graph.ops.user import ScoreMethod

__all__ = ["Aligned", "align", "greedy_choice", "judge", "mean_scores", "unconditional_scores"]

Ids = Sequence[int]


class Aligned(NamedTuple):
    """Token sequences that share `prefix`; the `options` are what differs, none of them empty."""

    prefix: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


def align(context: Ids, wholes: Sequence[Ids]) -> Aligned:
    """Cut tokenizations of context + choice where the first of them leaves the context's own tokens.

    A tokenizer may join the end of the context with the beginning of a choice (token healing): then the last
    tokens of the context are scored with every choice, so that all are judged on the same text. At least one
    token is left to each option, and at least one to the prefix where the context has any.
    """
    shared = min(_common(context, whole) for whole in wholes)
    shared = min(shared, *(len(whole) - 1 for whole in wholes))
    return Aligned(tuple(wholes[0][:shared]), tuple(tuple(whole[shared:]) for whole in wholes))


def mean_scores(logprobs: Sequence[Sequence[float]]) -> list[float]:
    """The mean log-probability of the tokens of each option."""
    return [sum(option) / len(option) for option in logprobs]


def unconditional_scores(
    logprobs: Sequence[Sequence[float]], unconditional: Sequence[Sequence[float]]
) -> list[float]:
    """The mean log-probability of each option, less its mean without the prompt."""
    pairs = zip(mean_scores(logprobs), mean_scores(unconditional), strict=True)
    return [given - alone for given, alone in pairs]


def greedy_choice(options: Sequence[Ids], logprobs: Sequence[Sequence[float]]) -> int:
    """The option that survives elimination token by token.

    At each position those stay whose token is the likeliest there. An option that has ended (it is a prefix
    of others) competes with its mean log-probability. Of options of equal tokens the first is taken.
    """
    means = mean_scores(logprobs)
    remaining = list(range(len(options)))
    for position in range(max(map(len, options))):
        # Options with one history and one token have one probability, whatever rounding makes of it.
        weights: dict[int | None, float] = {}
        for index in remaining:
            token = _token(options[index], position)
            weights.setdefault(token, means[index] if token is None else logprobs[index][position])
        likeliest = max(weights, key=weights.__getitem__)
        remaining = [index for index in remaining if _token(options[index], position) == likeliest]
    return remaining[0]


def judge(
    method: ScoreMethod,
    options: Sequence[Ids],
    logprobs: Sequence[Sequence[float]],
    unconditional: Sequence[Sequence[float]] = (),
) -> tuple[int, list[float]]:
    """The index of the best option, and the score of each.

    `unconditional` holds the log-probabilities without the prompt, for the method of that name. The scores of
    `greedy` are the means; its choice need not have the highest.
    """
    if method == "unconditional":
        scores = unconditional_scores(logprobs, unconditional)
        return _best(scores), scores
    scores = mean_scores(logprobs)
    return greedy_choice(options, logprobs) if method == "greedy" else _best(scores), scores


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def _token(option: Ids, position: int) -> int | None:
    return option[position] if position < len(option) else None


def _common(a: Ids, b: Ids) -> int:
    """The length of the longest common prefix."""
    if b[: len(a)] == a:  # as nearly always, and found at once
        return len(a)
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))
