"""Folds that guess: as long as the state stays as it is, what follows need not wait for it.

    s1 = f(s0, a)        f(s0, a)  f(s0, b)  f(s0, c)     all begun at once, on the first state
    s2 = f(s1, b)   ->   if f(s0, a) is s0, f(s0, b) is s2;
    s3 = f(s2, c)        else f(s0, b) and f(s0, c) are given up, and f(s1, b) and f(s1, c) begun

A refined answer, for one, stays what it was with most passages. The results are those of the fold itself:
each is taken only if the state that it was computed on turns out to be the right one. The idea is that of
value prediction in processors (Lipasti and Shen, "Exceeding the Dataflow Limit via Value Prediction",
MICRO 1996): a chain of values is a limit of the program, not of what can be computed.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, dropwhile, islice, pairwise, repeat
from typing import Final

from .costs import CHARS_PER_TOKEN
from .estimate import Estimator
from .ir import Graph, Node, Value
from .observed import constancy_key
from .ops.common import Input
from .ops.control import Cond, Fold, Loop, Map
from .ops.user import Generate
from .passes.base import follow
from .passes.gates import NODE_MS, SLOT_TOKENS
from .values import Datum, plain

__all__ = ["Folds", "GuessedFold", "width"]

_MOST: Final = 8
"""Bodies that are begun on one state."""
_WATCHED: Final = 32
"""States of a fold that are looked at: as many as are remembered."""
_WORTH_WAITING: Final = 3
"""Bodies that are to begin together later, so that it is worth beginning one alone."""


@dataclass(slots=True)
class GuessedFold:
    """A fold some of whose bodies have begun on a state that may not be theirs."""

    node: Node  # as it was first
    state: Value  # the last that is known to be right
    likeness: str
    index: int = 0  # of the item whose result is waited for
    row: list[Value] = field(default_factory=list)  # the results on `state`, for the items from there on


class Folds:
    """The folds of one run that guess, and what is learned from them and from the others.

    `known`: the values of the run; `aliases`: what stands for values that passes have replaced.
    """

    def __init__(
        self, estimator: Estimator, known: Mapping[Value, Datum], aliases: Mapping[Value, Value]
    ) -> None:
        self._estimator = estimator
        self._known = known
        self._aliases = aliases
        self._waiting: dict[int, GuessedFold] = {}
        self._chains: dict[int, tuple[GuessedFold, list[Value]]] = {}  # that do not guess, with their states

    @property
    def guesses(self) -> set[int]:
        """The nodes for whose results nobody waits yet."""
        return {value.node for fold in self._waiting.values() for value in fold.row[1:]}

    def take(self, node: Node, state: Datum) -> GuessedFold:
        """The fold that waited as this node, or a new one; `state` is what the node has as its state."""
        found = self._waiting.pop(node.id, None)
        return GuessedFold(node, node.args["state"], _likeness(state)) if found is None else found

    def wait(self, fold: GuessedFold) -> None:
        """Keep a fold until the first result of its row is known."""
        self._waiting[fold.node.id] = fold

    def go_on(self, fold: GuessedFold) -> list[Value]:
        """Take the results of the row that are known; those that were begun on a wrong state are returned."""
        while fold.row and fold.row[0] in self._known:
            made = fold.row.pop(0)
            found = _likeness(self._known[made])
            stays = found == fold.likeness
            self._estimator.observed.happened(constancy_key(fold.node, fold.index), whether=stays)
            fold.index += 1
            if not stays:
                wrong, fold.row, fold.state, fold.likeness = fold.row, [], made, found
                return wrong
        return []

    def bodies(self, fold: GuessedFold, items: int) -> int:
        """How many bodies are to have begun on its state, of a fold over so many items; 0: all, one by one.

        One, if it is only after the next item that guesses pay, and then well: what could be done early for
        the others is not, until it is known on which state.
        """
        left = items - fold.index
        now = min(self._width(fold, fold.index), left)
        if now > 1 or fold.row:
            return max(now, 1)
        return int(min(self._width(fold, fold.index + 1), left - 1) >= _WORTH_WAITING)

    def _width(self, fold: GuessedFold, index: int) -> int:
        assert isinstance(fold.node.op, Fold)
        observed, node = self._estimator.observed, fold.node
        chances = (observed.chance(constancy_key(node, place)) for place in count(index))
        return width(fold.node.op, chances, self._estimator)

    def watch(self, fold: GuessedFold) -> None:
        """It does not guess: learn from its first states once it is done, if guesses could ever pay."""
        assert isinstance(fold.node.op, Fold)
        if width(fold.node.op, repeat(1.0), self._estimator) > 1:
            self._chains[fold.node.id] = fold, [fold.state]

    def begun(self, node: int, states: Iterable[Value]) -> None:
        """Further bodies of a fold have begun, with these states after them."""
        if node in self._chains:
            watched = self._chains[node][1]
            watched += islice(states, _WATCHED - len(watched))

    def learned(self, values: Iterable[Value]) -> None:
        """Values have become known."""
        for value in values if self._chains else ():
            if value.node in self._chains:
                fold, states = self._chains.pop(value.node)
                known = (self._known.get(follow(self._aliases, state)) for state in states)
                found = (_likeness(datum) for datum in known if datum is not None)
                for index, (before, after) in enumerate(pairwise(found), fold.index):
                    key = constancy_key(fold.node, index)
                    self._estimator.observed.happened(key, whether=before == after)


def width(fold: Fold, chances: Iterable[float], estimator: Estimator) -> int:
    """How many bodies to begin on one state; 1: no guess. `chances`: that each leaves the state what it was.

    One that is right saves a message and its writing, less what writing beside another one takes longer; one
    that is wrong has read and written beside others for nothing. Each comes into the graph by itself, which
    costs about as much as two primitives.
    """
    reads_ms = writes_ms = beside_ms = 0.0
    for node, tokens in _redone(fold.body, {fold.STATE}):
        work = estimator.generation(node, tokens)
        reads_ms, writes_ms = reads_ms + work.read_ms, writes_ms + work.write_ms
        beside_ms += work.beside_ms
    won_ms = NODE_MS + writes_ms - beside_ms if writes_ms else 0.0
    lost_ms = reads_ms + beside_ms
    bodies, right = 1, 1.0
    for chance in islice(chances, _MOST - 1):
        right *= chance
        if right * won_ms - (1 - right) * lost_ms <= 2 * NODE_MS:
            break
        bodies += 1
    return bodies


def _redone(body: Graph, given: Container[str]) -> Iterator[tuple[Node, float]]:
    """What models write on account of these inputs, however deep inside, and the tokens from there on."""
    depending: set[Value] = set()
    for node in body:
        taken = {name for name, value in node.args.items() if value in depending}
        if not taken and not (isinstance(node.op, Input) and node.op.name in given):
            continue
        depending.update(body.results[node.id])
        match node.op:
            case Generate():
                yield node, _tokens_from(node.op, taken)
            case Map(body=inner) | Loop(body=inner) | Fold(body=inner):
                yield from _redone(inner, {_INSIDE.get(name, name) for name in taken})
            case Cond(then=then, otherwise=otherwise):
                yield from _redone(then, taken)
                yield from _redone(otherwise, taken)
            case _:
                pass


_INSIDE: Final = {"items": Map.ITEM}
"""Operands of control flow that its body calls otherwise."""


def _tokens_from(written: Generate, names: Container[str]) -> float:
    """The tokens of a prompt from the first slot on that takes one of these; what is before it is cached."""
    parts = [part for message in written.messages for part in message.parts]
    from_there = dropwhile(lambda part: isinstance(part, str) or part.name not in names, parts)
    return sum(len(part) / CHARS_PER_TOKEN if isinstance(part, str) else SLOT_TOKENS for part in from_there)


def _likeness(state: Datum) -> str:
    """What a state is: equal only for states that read alike wherever they stand."""
    return json.dumps(plain(state), ensure_ascii=False)
