"""From samples to rows of tokens.

A row holds several samples side by side. Each token carries its position within its conversation, its group,
which says what it may attend to, and a code for the loss:

  group  64 * sample + branch; branch 0 is the part that all branches share. A token sees earlier tokens of
         its own branch and of branch 0. From branch 32 on they are passages read apart, seen by all the
         branches below that, but not by each other.
  code   0 no loss, 1 text of documents, 2 + i what the assistant says in TASKS[i]
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt

from .encoder import ASSISTANT, BOS, END, SYSTEM, USER, Encoder
from .mixture import draw
from .samples import TASKS, Sample

__all__ = ["APART", "BRANCHES", "DOCUMENT", "FIRST_TASK", "ROW", "Row", "row_of", "rows"]

ROW: Final = 2048
"""Tokens of a row."""
BRANCHES: Final = 64
APART: Final = 32
"""The first branch that is a passage read apart."""
DOCUMENT: Final = 1
FIRST_TASK: Final = 2

Row = npt.NDArray[np.uint16]
"""(4, ROW): tokens, positions, groups, codes."""

_CODES: Final = {task: FIRST_TASK + index for index, task in enumerate(TASKS)}
_OPEN_ROWS: Final = 24
_FULL: Final = 64  # a row with less room than this is closed


class _Rendered:
    """One sample as parallel lists."""

    __slots__ = ("branches", "codes", "positions", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.branches: list[int] = []
        self.codes: list[int] = []

    def add(self, ids: list[int], position: int, branch: int, code: int) -> int:
        """Append; the position after it is returned."""
        count = len(ids)
        self.tokens += ids
        self.positions += range(position, position + count)
        self.branches += [branch] * count
        self.codes += [code] * count
        return position + count


def rows(encode: Encoder, rng: Random, progress: float, length: int = ROW) -> Iterator[Row]:
    """Packed rows without end."""
    packer = _Packer(length)
    while True:
        rendered = _render(draw(rng, progress), encode, length)
        if rendered is not None:
            row = packer.add(rendered)
            if row is not None:
                yield row


def row_of(sample: Sample, encode: Encoder) -> Row:
    """A row that holds one sample and is no longer than that; ValueError: it has more tokens than a row."""
    rendered = _render(sample, encode, ROW)
    if rendered is None:
        raise ValueError(f"no branch fits into {ROW} tokens")
    return _side_by_side([rendered], len(rendered.tokens))


def _render(sample: Sample, encode: Encoder, limit: int) -> _Rendered | None:
    """A sample's tokens; branches for which there is no room are left out, and None is for none left."""
    out = _Rendered()
    system = [SYSTEM, *encode(sample.system), END] if sample.system else []
    start = out.add([BOS, *system, USER], 0, 0, 0)
    lead = ""
    lines = sample.read.split("\n")
    if sample.apart and len(lines) <= BRANCHES - APART:
        before, _, lead = sample.shared.partition(sample.read)
        start = out.add(encode(before), start, 0, 0)
        for number, line in enumerate(lines, APART):
            start = out.add(encode(line + "\n"), start, number, DOCUMENT)
        lead = lead.removeprefix("\n")
    elif sample.read:
        before, _, after = sample.shared.partition(sample.read)
        start = out.add(encode(before), start, 0, 0)
        start = out.add(encode(sample.read), start, 0, DOCUMENT)
        start = out.add(encode(after), start, 0, 0)
    else:
        start = out.add(encode(sample.shared), start, 0, 0)
    number = 0
    for branch in sample.branches:
        pieces: list[tuple[list[int], int]] = []
        for index, (user, assistant) in enumerate(branch.turns):
            ask = encode(lead + user) if index == 0 else [USER, *encode(user)]
            pieces.append(([*ask, END, ASSISTANT], 0))
            pieces.append(([*encode(assistant), END], _CODES[branch.task]))
        if len(out.tokens) + sum(len(ids) for ids, _ in pieces) > limit:
            continue
        number += 1
        position = start
        for ids, code in pieces:
            position = out.add(ids, position, number, code)
    return out if number else None


class _Packer:
    """Fills rows with whole samples, each where it fits best."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._rows: list[list[_Rendered]] = []
        self._left: list[int] = []

    def add(self, sample: _Rendered) -> Row | None:
        """Place a sample; a row that is full is returned."""
        size = len(sample.tokens)
        fits = [(left, index) for index, left in enumerate(self._left) if left >= size]
        if fits:
            _, index = min(fits)
            self._rows[index].append(sample)
            self._left[index] -= size
            return self._close(index) if self._left[index] < _FULL else None
        self._rows.append([sample])
        self._left.append(self._length - size)
        if len(self._rows) > _OPEN_ROWS:
            return self._close(self._left.index(min(self._left)))
        return None

    def _close(self, index: int) -> Row:
        self._left.pop(index)
        return _side_by_side(self._rows.pop(index), self._length)


def _side_by_side(samples: list[_Rendered], length: int) -> Row:
    row = np.zeros((4, length), dtype=np.uint16)
    at = 0
    for number, sample in enumerate(samples, 1):
        end = at + len(sample.tokens)
        row[0, at:end] = sample.tokens
        row[1, at:end] = sample.positions
        row[2, at:end] = sample.branches
        row[2, at:end] += number * BRANCHES
        row[3, at:end] = sample.codes
        at = end
    return row
