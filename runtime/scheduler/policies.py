"""The policies of a scheduler, by name, so that each can be exchanged or switched off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .admission import ADMISSION
from .advice import ADVICE
from .batching import BATCHING
from .engines import Pool
from .fairness import FAIRNESS
from .placement import PLACEMENT
from .primitive import EngineKey
from .priority import PRIORITY, STEP_S
from .queues import ReadyQueue
from .residency import Residency
from .state import LiveNode
from .transfer import TRANSFER

__all__ = ["Policies", "Toolbox"]

P = TypeVar("P")


@dataclass(frozen=True)
class Policies:
    """How a scheduler decides. Raises ValueError for an unknown name."""

    batching: str = "fifo"
    """fifo, per_invocation, topology: docs/scheduling.md explains all of them."""
    priority: str = "remaining"
    """arrival, remaining, attained."""
    fairness: str = "virtual_time"
    """none, virtual_time: between namespaces."""
    placement: str = "affinity"
    """round_robin, least_loaded, sticky, affinity."""
    admission: str = "growing"
    """everybody, growing."""
    transfer: str = "cheaper"
    """never, cheaper: whether KV that another worker holds is fetched or computed again."""
    advice: str = "next_use"
    """none, liveness, next_use: whether workers are told which contexts are taken again, and when."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """The shares of namespaces under `fairness`; 1 unless given."""
    longest_wait_s: float = 30.0
    """What has waited so long goes first, whatever the policies say."""
    grace_s: float = 30.0
    """How long what needs a worker that is not there waits for one to join, before its run fails."""
    link_mb_s: float = 200.0
    """MB a second at which KV is expected to come from another worker, until that has been seen."""

    def __post_init__(self) -> None:
        _find("batching", self.batching, BATCHING)
        _find("priority", self.priority, PRIORITY)
        _find("fairness", self.fairness, FAIRNESS)
        _find("placement", self.placement, PLACEMENT)
        _find("transfer", self.transfer, TRANSFER)
        _find("admission", self.admission, ADMISSION)
        _find("advice", self.advice, ADVICE)
        if not self.grace_s >= 0:
            raise ValueError(f"grace_s is {self.grace_s}, but nobody waits less than 0 s")
        if not self.link_mb_s > 0:
            raise ValueError(f"link_mb_s is {self.link_mb_s}, but KV must take some time to come")


class Toolbox:
    """The objects that the names stand for."""

    def __init__(self, policies: Policies, residency: Residency) -> None:
        self._policies = policies
        self._priority = PRIORITY[policies.priority]()
        self.placement = PLACEMENT[policies.placement](residency)
        self.admission = ADMISSION[policies.admission](residency)
        self.advice = ADVICE[policies.advice](residency.patience)

    def queue(self) -> ReadyQueue:
        """A queue for one kind of engine."""
        policies = self._policies
        fairness = FAIRNESS[policies.fairness](policies.weights)
        return ReadyQueue(BATCHING[policies.batching], self._priority, fairness, policies.longest_wait_s)

    def head_start(self, live: LiveNode, now: float) -> float:
        """The seconds that a primitive, when it goes to an engine, counts as having waited: see `Priority`.

        Its run's priority left out, as engines reckon with that themselves. Who has waited for
        `longest_wait_s` there is overtaken by nobody who comes now.
        """
        rank = self._priority.rank(live) + STEP_S * live.run.priority
        return max(now - rank, -self._policies.longest_wait_s)

    def pool(self, key: EngineKey, stirred: dict[Pool, None]) -> Pool:
        """A pool of engines for it."""
        return Pool(key, self.placement.load, stirred)


def _find(what: str, name: str, known: Mapping[str, P]) -> P:
    if name not in known:
        raise ValueError(f"unknown {what} policy {name!r}; known: {', '.join(map(repr, sorted(known)))}")
    return known[name]
