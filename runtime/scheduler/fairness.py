"""Fairness policies: how the time of engines is shared among namespaces that all want more of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Final, Protocol

__all__ = ["FAIRNESS", "Fairness", "NoFairness", "Tenant", "VirtualTime"]


class Tenant:
    """Whoever runs programs in one namespace."""

    __slots__ = ("name", "virtual_ms", "waits", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.virtual_ms = 0.0
        """The time of engines that it has had, by its weight. The tenant with the least is served next."""
        self.waits = 0
        """In how many queues it waits."""


class Fairness(Protocol):
    """Who is served next."""

    def tenant(self, namespace: str) -> Tenant:
        """Who pays for the runs of a namespace."""
        ...

    def wants(self, tenant: Tenant) -> None:
        """A tenant waits in a queue more."""
        ...

    def rests(self, tenant: Tenant) -> None:
        """It waits there no longer."""
        ...

    def serve(self, tenant: Tenant, ms: float) -> None:
        """It has been given about so much time of an engine."""
        ...


class NoFairness:
    """All runs compete as one tenant's."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._everybody = Tenant("", 1.0)

    def tenant(self, namespace: str) -> Tenant:
        """The same for all."""
        return self._everybody

    def wants(self, tenant: Tenant) -> None:
        """Nothing follows."""

    def rests(self, tenant: Tenant) -> None:
        """Nothing follows."""

    def serve(self, tenant: Tenant, ms: float) -> None:
        """Nothing follows."""


class VirtualTime:
    """Time of engines by weight, to those who wait for it; who did not want it earlier has no claim to more.

    Start-time fair queueing (Goyal et al., SIGCOMM 1996) with what primitives are expected to take, as VTC
    (arXiv:2401.00588) does with tokens. Weights are 1 unless given.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._tenants: dict[str, Tenant] = {}
        self._tidy_at = _TENANTS
        self._now_ms = 0.0  # virtual time: that of the tenant served last

    def __len__(self) -> int:
        """How many tenants are remembered."""
        return len(self._tenants)

    def tenant(self, namespace: str) -> Tenant:
        """The tenant of that name."""
        found = self._tenants.get(namespace)
        if found is None:
            if len(self._tenants) >= self._tidy_at:
                self._forget()
            found = self._tenants[namespace] = Tenant(namespace, self._weights.get(namespace, 1.0))
        return found

    def wants(self, tenant: Tenant) -> None:
        """It starts from the present, if it has waited for nothing."""
        if not tenant.waits:
            tenant.virtual_ms = max(tenant.virtual_ms, self._now_ms)
        tenant.waits += 1

    def rests(self, tenant: Tenant) -> None:
        """If it waits for nothing else, it can be forgotten once the present has caught up with it."""
        tenant.waits -= 1

    def serve(self, tenant: Tenant, ms: float) -> None:
        """Its virtual time passes, the slower the larger its weight."""
        self._now_ms = max(self._now_ms, tenant.virtual_ms)
        tenant.virtual_ms += ms / tenant.weight

    def _forget(self) -> None:
        """Forget those behind the present, who start from it anyway, unless they wait.

        Where each has been served once it stands still: then it moves on to where half of them are.
        """
        self._now_ms = max(self._now_ms, median(t.virtual_ms for t in self._tenants.values()))
        self._tenants = {n: t for n, t in self._tenants.items() if t.waits or t.virtual_ms > self._now_ms}
        self._tidy_at = max(_TENANTS, 2 * len(self._tenants))


_TENANTS: Final = 1024  # remembered before those without a claim are forgotten

FAIRNESS: Final[Mapping[str, Callable[[Mapping[str, float]], Fairness]]] = {
    "none": NoFairness,
    "virtual_time": VirtualTime,
}
