"""The planner's view of the work: jobs, and the token sequences that they compute. No tensors."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np

from weft.runtime.kv.radix import Node, Tokens, common_prefix

__all__ = ["Job", "Sequence"]


class Sequence:
    """Tokens, and the KV slots of those that are computed or about to be.

    `slots[:shared]` belong to the cache (or, in a branch, to its trunk), `slots[shared:allocated]` to this
    sequence; the KV of `tokens[:computed]` is present. Behind `tokens[:length]` may stand a *draft*: tokens
    that are expected to be sampled next, and computed together with the last one to see whether they are.
    """

    __slots__ = (
        "allocated",
        "computed",
        "drafted",
        "length",
        "mirrored",
        "revision",
        "shared",
        "slots",
        "tokens",
    )

    def __init__(self, tokens: Tokens, capacity: int) -> None:
        self.tokens: Tokens = np.empty(capacity, dtype=np.int64)
        self.tokens[: len(tokens)] = tokens
        self.slots: Tokens = np.empty(capacity, dtype=np.int64)
        self.length = len(tokens)
        self.computed = 0
        self.shared = 0
        self.allocated = 0
        self.drafted = 0
        self.mirrored = 0  # slots, from the first, of which the device has a copy
        self.revision = 0  # counts the changes of which slots are shared

    @property
    def remaining(self) -> int:
        """How many tokens are still to be computed."""
        return self.length - self.computed

    @property
    def unallocated(self) -> int:
        """How many tokens still lack a slot."""
        return self.length - self.allocated

    @property
    def owned(self) -> Tokens:
        """The slots that belong to this sequence alone."""
        return self.slots[self.shared : self.allocated]

    def append(self, token: int) -> None:
        """Add a sampled token."""
        self.tokens[self.length] = token
        self.length += 1

    @property
    def draft(self) -> list[int]:
        """The drafted tokens."""
        found: list[int] = self.tokens[self.length : self.length + self.drafted].tolist()
        return found

    def propose(self, draft: Seq[int]) -> None:
        """Draft what follows."""
        self.tokens[self.length : self.length + len(draft)] = draft
        self.drafted = len(draft)

    def settle(self, right: int) -> None:
        """End the draft: of what was computed, only the first `right` tokens of the sequence were."""
        self.computed = min(self.computed, right)
        self.drafted = 0

    def share(self, slots: Tokens) -> None:
        """Take over KV that is present: the slots of the first tokens, which somebody else owns."""
        count = len(slots)
        self.revision += 1
        if self.mirrored:
            same = common_prefix(self.slots[: self.mirrored], slots)
            self.mirrored = self.mirrored if same == count else same
        self.slots[:count] = slots
        self.shared = count
        self.computed = max(self.computed, count)
        self.allocated = max(self.allocated, count)

    def extend(self, slots: Tokens) -> None:
        """Own further slots, for the tokens to be computed next."""
        self.slots[self.allocated : self.allocated + len(slots)] = slots
        self.allocated += len(slots)

    def reset(self) -> None:
        """Forget all slots and the draft; the tokens stay."""
        self.computed = self.shared = self.allocated = self.drafted = self.mirrored = 0
        self.revision += 1


@dataclass(slots=True, eq=False)
class Job:
    """One request as the planner sees it: a trunk, and branches that continue it independently."""

    id: int
    namespace: str
    priority: int
    arrival: float  # seconds on the caller's clock
    trunk: Sequence
    prompt: int  # tokens of the trunk that came with the request
    max_new: int = 0  # tokens that may be sampled
    needs_logits: bool = True  # whether at least the trunk's last token must be computed
    ahead: bool = False  # whether nobody can go on from it yet
    head_start: float = 0.0  # seconds that it counts as having waited before it came
    rank: float = 0.0  # the planner's order, smallest first
    tails: tuple[Tokens, ...] = ()  # tokens to compute after the trunk, one array a branch
    branches: list[Sequence] = field(default_factory=list)
    node: Node | None = None  # of the radix tree, locked; None: not running
    cached_tokens: int = 0  # of the prompt, at the first admission
    computed_tokens: int = 0  # computed by steps, decodes left out
    admissions: int = 0

    @property
    def generated(self) -> int:
        """How many tokens have been sampled."""
        return self.trunk.length - self.prompt

    @property
    def peak(self) -> int:
        """The most slots that this job can come to hold; the last sampled token needs none."""
        return self.prompt + max(self.max_new - 1, 0) + sum(map(len, self.tails))

    @property
    def remaining(self) -> int:
        """Known tokens that are still to be computed."""
        if self.branches:
            return sum(branch.remaining for branch in self.branches)
        return self.trunk.remaining + sum(map(len, self.tails))

    @property
    def unallocated(self) -> int:
        """Known tokens that still lack a slot."""
        if self.branches:
            return sum(branch.unallocated for branch in self.branches if branch.remaining)
        return self.trunk.unallocated + sum(map(len, self.tails))

    @property
    def decoding(self) -> bool:
        """Whether the next step computes just one token, and its draft, and samples others."""
        return self.max_new > 0 and self.trunk.remaining == 1

    def active(self) -> list[Sequence]:
        """The sequences with tokens to compute now: the trunk first, then all branches."""
        if self.trunk.remaining:
            return [self.trunk]
        return [branch for branch in self.branches if branch.remaining]

    def grow_branches(self) -> None:
        """Start one branch for each tail on the computed trunk."""
        prefix = self.trunk.tokens[: self.trunk.length]
        for tail in self.tails:
            tokens = np.concatenate([prefix, tail])
            branch = Sequence(tokens, len(tokens))
            branch.share(self.trunk.slots[: self.trunk.length])
            self.branches.append(branch)
