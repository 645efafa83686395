"""What to do when an operation is slow or fails."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Both policies as the graph writes them. Raises ValueError for impossible numbers."""
    if timeout is None and retry is None:
        return NO_POLICY
    seconds = timeout.seconds if isinstance(timeout, TimeoutPolicy) else timeout
    retry = retry or RetryPolicy(attempts=1)
    return Policy(seconds, retry.attempts, retry.backoff)
