"""What a step computes, as numbers: all that whoever runs it on a device needs to know.

Steps hold no tensors and no sequences, so that processes which share a model can be told of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.kernels.shared_prefix import Capacity

__all__ = ["Census", "Change", "DecodeStep", "Ints", "MixedStep", "Reservation", "Step"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Census:
    """The memory that all devices have free is wanted; what was held ready before is not."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a device holds ready before the first step."""

    slots: int  # of the pool
    rows: int  # of the page table
    width: int  # tokens a row of it
    graphs: int  # sequences up to which steps of decodes are captured; 0: none
    sharing: bool  # whether those that read shared prefixes once are, too
    tokens: int  # of prompts and decodes up to which steps of both are captured, if steps of decodes are


@dataclass(frozen=True, slots=True)
class Change:
    """What the page table on the device lacks."""

    height: int  # rows that it has from now on
    at: Ints  # where, counted through all rows
    slots: Ints  # and what


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """One token of each sequence, by a graph."""

    change: Change
    tokens: Ints  # [4, sequences]: ids, slots, positions, rows
    sharing: bool  # whether shared prefixes are read once,
    cut: Ints | None  # and as what: the numbers of a `SharedPlan`; None: as the last time
    ahead: bool  # whether the ids are those that the last step draws


@dataclass(frozen=True, slots=True)
class MixedStep:
    """Any numbers of tokens of sequences, first of those that compute one token only."""

    change: Change
    tokens: Ints  # [3, tokens]: ids, slots, positions
    rows: Ints  # [sequences]
    lengths: Ints  # [single tokens]: keys of their sequences, their own included
    starts: Ints  # [other sequences + 1]: where their tokens begin among the tokens that are not single
    wanted: Ints  # [rows]: the tokens whose logits are wanted
    longest: int  # keys of a sequence
    cut: Ints  # the numbers of a `SharedPlan`; none: nothing is shared
    capacity: Capacity | None  # of it
    ahead: bool


Step = DecodeStep | MixedStep
