"""What of one run is in the journal, and goes there.

Results are kept by what they are results of, as those of equal work are (`reuse.py`): after a restart the
program is compiled and begun anew, and takes the results that are there already. What depends on more than
its operands, a tool, a search or a person's answer, is kept for its place in the program besides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from weft.graph.codec import decode_datum, encode_datum
from weft.graph.errors import GraphError
from weft.graph.ir import Node
from weft.graph.live import Growth
from weft.graph.ops.base import Op
from weft.graph.ops.primitive import Prefill
from weft.proto import worker_pb2
from weft.runtime.scheduler.faults import Fault, after_restart, blame, repeatable

from .journal import Journal
from .journal_store import LastingRun
from .places import Places
from .shared_results import Kept

__all__ = ["Durable"]

_KINDS: Final = frozenset({"llm", "embed", "index", "rerank", "tool"})


class Durable:
    """The journal as one run sees it.

    `before`: what an earlier server has left of the run. `stir` is called when something that waited for the
    disk can go on, `fail` when the run cannot.
    """

    def __init__(
        self,
        journal: Journal,
        run: str,
        before: LastingRun | None,
        *,
        stir: Callable[[str, int], None],
        fail: Callable[[str, Fault], None],
    ) -> None:
        self._journal = journal
        self._run = run
        self._results = before.results if before else {}
        self._begun = before.begun if before else frozenset()
        self._stir = stir
        self._fail = fail
        self._places = Places()
        self._keys: dict[int, bytes] = {}  # of nodes whose results are not in the journal

    def add(self, growth: Growth) -> None:
        """Take note of new nodes."""
        self._places.add(growth)

    def keeps(self, node: Node) -> bool:
        """Whether a node gives what is worth keeping; of a context, what it consists of is kept."""
        return node.op.kind in _KINDS and not isinstance(node.op, Prefill)

    def guards(self, node: Node) -> bool:
        """Whether a node must not begin before the journal says that it may have: it must not run twice."""
        return not repeatable(node)

    def recall(self, node: Node, digest: bytes) -> Kept | None:
        """What the journal has as the results of a node; `digest`: of its operation and all that it takes."""
        key = digest + self._places.of(node.id).encode() if _placed(node.op) else digest
        message = self._results.get(key)
        if message is None:
            self._keys[node.id] = key
            return None
        return tuple(map(decode_datum, worker_pb2.TaskDone.FromString(message).results))

    def put(self, number: int, results: Kept) -> None:
        """Keep the results of a node that were looked for in vain."""
        key = self._keys.pop(number, None)
        if key is not None:
            with suppress(GraphError):  # what cannot be written cannot be sent either: its run will fail
                message = worker_pb2.TaskDone(results=map(encode_datum, results))
                self._journal.put(self._run, key, message.SerializeToString())

    def begin(self, node: Node, go: Callable[[], None]) -> None:
        """Let a guarded node `go` when the journal says so. If it may have run before, the run fails."""
        place = self._places.of(node.id)
        if place in self._begun:
            self._fail(self._run, after_restart(node))
            return

        def written(begun: asyncio.Future[None]) -> None:
            problem = begun.exception()
            if problem is None:
                go()
                self._stir(self._run, node.id)
            else:
                self._fail(self._run, blame(Fault("unavailable", f"not begun: {problem}"), node))

        self._journal.begin(self._run, place).add_done_callback(written)


def _placed(op: Op) -> bool:
    """Whether results depend on more than the operands: on an index, on what a tool or a person does."""
    return op.kind == "index" or (op.kind == "tool" and not op.deterministic)
