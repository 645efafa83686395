"""What the LLM engine is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from weft.graph.sampling import Constraint, Sampling

__all__ = [
    "Delta",
    "Event",
    "Failed",
    "Finished",
    "GenerateRequest",
    "Likeliest",
    "PrefillRequest",
    "PromptDone",
    "Request",
    "ScoreRequest",
    "Scored",
    "Sink",
    "Timings",
    "Weighed",
]


@dataclass(frozen=True, slots=True)
class PrefillRequest:
    """Make the KV of all `ids` present in the cache. Ends with `PromptDone`."""

    ids: tuple[int, ...]
    namespace: str = ""
    """Prefixes are shared within a namespace only."""
    priority: int = 0
    """Higher goes first."""
    ahead: bool = False
    """Whether nobody can go on from it yet: then it yields to what somebody waits for."""
    head_start: float = 0.0
    """Seconds that it counts as having waited before it came; may be negative."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue `ids`. Answers `PromptDone`, then `Delta`s, and ends with `Finished`."""

    ids: tuple[int, ...]
    namespace: str = ""
    priority: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    constraint: Constraint | None = None
    logprobs: int | None = None
    """Weigh each sampled token, and so many of the likeliest there; None: do not."""
    head_start: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """The log-probability of every token of each option, given the prefix. Ends with `Scored`."""

    prefix_ids: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    namespace: str = ""
    priority: int = 0
    top: int = 0
    """So many of the likeliest tokens at the place of each."""
    head_start: float = 0.0


Request = PrefillRequest | GenerateRequest | ScoreRequest


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, in seconds."""

    queue: float  # from submission (a grammar's compilation included) to admission
    prefill: float  # from admission to the first token
    decode: float  # from the first token to the last


@dataclass(frozen=True, slots=True)
class PromptDone:
    """The KV of the whole prompt is present."""

    cached_tokens: int  # of the prompt, found in the cache
    computed_tokens: int  # of the prompt, computed for this request


@dataclass(frozen=True, slots=True)
class Delta:
    """Further text and tokens; at most one a step."""

    text: str
    ids: tuple[int, ...]


Likeliest = tuple[tuple[int, float], ...]
"""Tokens and their log-probabilities, likeliest first."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """The natural-log probability of a token before any temperature, filter or constraint."""

    id: int
    logprob: float | None  # None: of the first token of a prompt, which nothing foretells
    top: Likeliest = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A decode has ended."""

    text: str
    ids: tuple[int, ...]
    """The longest run of sampled tokens whose text is a prefix of `text`."""
    tail: str
    """The rest of `text`, which no whole sampled tokens spell."""
    finish_reason: Literal["stop", "length"]
    """`stop` (end of sequence, stop string, or the constraint is complete) or `length`."""
    cached_tokens: int
    computed_tokens: int
    """Prompt tokens computed, and tokens computed again after a retraction."""
    timings: Timings
    logprobs: tuple[Weighed, ...] = ()
    """One for each of `ids`, if they were asked for."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Natural-log probabilities, one for each token of each option."""

    logprobs: tuple[tuple[float, ...], ...]
    cached_tokens: int
    computed_tokens: int
    top: tuple[tuple[Likeliest, ...], ...] = ()
    """The likeliest tokens at the place of each, if these were asked for."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The request has ended without a result."""

    error: Exception


Event = PromptDone | Delta | Finished | Scored | Failed

Sink = Callable[[Sequence[Event]], None]
"""Receives all of one request's events of one step, on the engine's thread; it must return quickly."""
