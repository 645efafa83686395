"""What went wrong, and what follows from it: another attempt or the end of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from weft.graph.ir import Node
from weft.graph.ops.common import Tool

__all__ = [
    "CODES",
    "MAX_LOSSES",
    "Code",
    "Fault",
    "after_failure",
    "after_loss",
    "after_restart",
    "blame",
    "nobody_offers",
    "repeatable",
    "timed_out",
]

MAX_LOSSES: Final = 3
"""A task whose worker was lost this often while it ran is taken for the cause of the losses."""

Code = Literal[
    "cancelled",
    "internal",
    "invalid",
    "not_found",
    "timeout",
    "too_large",
    "tool_failed",
    "unavailable",
    "worker_lost",
]
CODES: Final[tuple[Code, ...]] = get_args(Code)
"""What a fault's code may be; programs of clients that raise may say others."""

_WORTH_ANOTHER_ATTEMPT: Final = frozenset({"timeout", "tool_failed"})


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure as it travels through every process to the user; `weft.v1.Fault` explains the fields."""

    code: str
    message: str
    program: str = ""
    node: str = ""  # label, for people
    location: str = ""  # file:line of the user's code
    worker: str = ""
    retryable: bool = False


def blame(fault: Fault, node: Node, worker: str = "") -> Fault:
    """The fault with what it does not say yet about where it happened."""
    return replace(
        fault,
        node=fault.node or node.label(),
        location=fault.location or node.location,
        worker=fault.worker or worker,
    )


def repeatable(node: Node) -> bool:
    """Whether the node may run again when it is not known if it has run."""
    return not isinstance(node.op, Tool) or node.op.idempotent or node.op.pure


def after_failure(node: Node, fault: Fault, failures: int) -> float | None:
    """The seconds to wait before the next attempt after failure number `failures`; None: there is none.

    A policy's attempts are spent on transient faults, on tools that raise and on timeouts. A timeout leaves
    open whether a tool has run, so one that is neither idempotent nor pure is not tried again after it.
    """
    if failures >= node.policy.attempts:
        return None
    if not fault.retryable and fault.code not in _WORTH_ANOTHER_ATTEMPT:
        return None
    if fault.code == "timeout" and not repeatable(node):
        return None
    return float(node.policy.backoff_s * 2 ** (failures - 1))


def after_loss(node: Node, worker: str, reason: str, losses: int) -> Fault | None:
    """Why a task that ran on a lost worker must not run again; None: it may."""
    if not repeatable(node):
        return _lost(
            node,
            worker,
            f"worker {worker!r} was lost ({reason}) while it ran {node.label()}, which may have changed "
            "something; it is not run again. Declare a tool idempotent if that would be harmless",
        )
    if losses >= MAX_LOSSES:
        return _lost(
            node,
            worker,
            f"this primitive was running on {losses} workers when they were lost, last on {worker!r} "
            f"({reason}); it is not tried again. The workers' logs say what stopped them",
        )
    return None


def after_restart(node: Node) -> Fault:
    """That the server ended after a node had begun that must not run twice, and its results are not known."""
    message = (
        "the server ended after it had begun this tool, which may have changed something; it is not run "
        "again. Declare the tool idempotent if that would be harmless"
    )
    return blame(Fault("worker_lost", message), node)


def nobody_offers(node: Node, engine: str, grace_s: float, lost: tuple[str, str] | None) -> Fault:
    """That no worker joined in time which offers what the node needs.

    `lost`: the last worker that offered it, and how it was lost.
    """
    remedy = f"start one with `weft worker --kind {node.op.kind} --connect ADDRESS`"
    if lost is None:
        message = f"no worker offers {engine}, and none joined within {grace_s:g} s; {remedy}"
        return blame(Fault("unavailable", message), node)
    worker, reason = lost
    return _lost(
        node,
        worker,
        f"worker {worker!r} was lost ({reason}), no other worker offers {engine}, and none joined within "
        f"{grace_s:g} s; {remedy}",
    )


def timed_out(node: Node) -> Fault:
    """That an attempt took longer than the node's policy allows."""
    seconds = node.policy.timeout_s
    return blame(Fault("timeout", f"took longer than its timeout of {seconds:g} s", retryable=True), node)


def _lost(node: Node, worker: str, message: str) -> Fault:
    return blame(Fault("worker_lost", message, worker=worker), node)
