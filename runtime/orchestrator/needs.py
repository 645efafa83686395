"""What of a run anybody needs: nobody does what serves only withdrawn values, or wrong guesses. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from weft.graph.ir import Node, Value
from weft.graph.live import Growth
from weft.graph.ops.base import Op
from weft.graph.ops.common import Interrupt
from weft.graph.ops.control import Fold
from weft.graph.ops.optimized import Stage
from weft.graph.ops.primitive import Upsert

__all__ = ["Needs"]


class Needs:
    """The nodes of one run that are not done, and who needs them.

    `nodes` are those of the live graph, `pending` the numbers of those that are not done, and `wanted` the
    values that the client waits for now.
    """

    def __init__(
        self, nodes: Mapping[int, Node], pending: AbstractSet[int], wanted: Collection[Value]
    ) -> None:
        self._nodes = nodes
        self._pending = pending
        self._wanted = wanted
        self._withdrawn: set[int] = set()
        self._failed: set[int] = set()
        self._parts: dict[int, list[int]] = {}  # by control node: the nodes that it has become
        self._guessing: set[int] = set()  # those of them that need but the parts that they take

    def add(self, growth: Growth) -> None:
        """Take note of new nodes."""
        control = growth.nodes[-1].id if growth.replaces else growth.control
        if growth.replaces and isinstance(growth.nodes[-1].op, Fold):
            self._guessing.add(growth.nodes[-1].id)
        elif growth.control in self._guessing:  # no more: what it has become so far is done, or given up
            self._guessing.discard(growth.control)
            del self._parts[growth.control]
        if control is not None:
            parts = self._parts.setdefault(control, [])
            parts += (node.id for node in growth.nodes if node.id != control)

    def withdraw(self, number: int) -> None:
        """The client waits for a result of this node no longer."""
        self._withdrawn.add(number)

    def fail(self, number: int) -> None:
        """This node will never give results, nor will what takes them."""
        self._failed.add(number)

    def unneeded(self, begun: Collection[int], guesses: Collection[int] = ()) -> set[int]:
        """What need not be computed now. `begun`: tools that run, which nobody calls back.

        `guesses`: nodes that are to be taken for withdrawn, too.

        Of what is withdrawn, and what that takes, all that serves nobody else. A node that was never
        withdrawn, nor an equal one that is the same node now, serves the program, which may come to wait for
        it; unless it only looks at another's result, or was to be taken by what is withdrawn. Effects are
        wanted for themselves, unless they are withdrawn and wait for what has failed.
        """
        self._withdrawn &= self._pending
        given_up = self._closure({*self._withdrawn, *guesses}, self._producers)
        if not given_up:
            return set()
        called_off = self._closure(self._withdrawn, self._parts_of)
        needed = {value.node for value in self._wanted}
        needed.update(number for number in begun if not self._is_hopeless(number))
        for number in self._pending:
            op = self._nodes[number].op
            if number not in given_up:
                if op.kind != "host":
                    needed.add(number)
            elif _lasts(op):
                carried_out = isinstance(op, (Upsert, Stage)) and not self._is_hopeless(number)
                if carried_out or number not in called_off:
                    needed.add(number)
        return given_up - self._closure(needed, self._needed_for)

    def _is_hopeless(self, number: int) -> bool:
        """Whether a node has failed, or something that it waits for."""
        return bool(self._failed) and not self._failed.isdisjoint(self._closure([number], self._needed_for))

    def _closure(self, numbers: Iterable[int], follow: Callable[[int], Iterable[int]]) -> set[int]:
        """Those of the nodes that are not done, and all such that can be reached from them."""
        found: set[int] = set()
        left = list(numbers)
        while left:
            number = left.pop()
            if number in self._pending and number not in found:
                found.add(number)
                left += follow(number)
        return found

    def _parts_of(self, number: int) -> Iterable[int]:
        return self._parts.get(number, ())

    def _producers(self, number: int) -> Iterable[int]:
        yield from self._operands(number)
        yield from self._parts_of(number)

    def _needed_for(self, number: int) -> Iterable[int]:
        return self._operands(number) if number in self._guessing else self._producers(number)

    def _operands(self, number: int) -> Iterable[int]:
        return (value.node for value in self._nodes[number].args.values())


def _lasts(op: Op) -> bool:
    """Whether a node is to run whoever takes its result; a question is asked for its answer alone."""
    return op.effectful and not isinstance(op, Interrupt)
