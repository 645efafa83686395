"""What to do when an operation is slow or fails."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from weft.graph.ir import NO_POLICY, Policy

__all__ = ["RetryPolicy", "Timeout", "TimeoutPolicy", "node_policy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Try up to `attempts` times; wait `backoff` seconds before the second, twice that before the third, …"""

    attempts: int = 3
    backoff: float = 0.5  # seconds

    def __post_init__(self) -> None:
        Policy(attempts=self.attempts, backoff_s=self.backoff)


@dataclass(frozen=True, slots=True)
class TimeoutPolicy:
    """Give each attempt at most `seconds`; one that takes longer has failed."""

    seconds: float

    def __post_init__(self) -> None:
        Policy(timeout_s=self.seconds)


Timeout = TimeoutPolicy | float | None


def node_policy(timeout: Timeout, retry: RetryPolicy | None) -> Policy:
    """Both policies as the graph writes them. Raises ValueError for what is none, and impossible numbers."""
    if timeout is None and retry is None:
        return NO_POLICY
    if timeout is not None and not isinstance(timeout, (TimeoutPolicy, Real)):
        raise ValueError(f"timeout must be a number of seconds or a TimeoutPolicy, not {timeout!r}")
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise ValueError(f"retry must be a RetryPolicy, not {retry!r}")
    seconds = timeout.seconds if isinstance(timeout, TimeoutPolicy) else timeout
    retry = retry or RetryPolicy(attempts=1)
    return Policy(seconds, retry.attempts, retry.backoff)
