"""Read a prompt as it becomes known, segment by segment.

    %1 = search("docs", %0)                        %1 = search("docs", %0)
    %2 = prefill("Answer.\\n", q=%0, "\\n", p=%1)  -> %5 = prefill("Answer.\\n", q=%0, "\\n")
                                                   %2 = prefill(%5, p=%1)

The prompt is cut before every slot whose value is expected later than all to the left of it. Segments that
are known together stay together, and those that turn out to be are computed together all the same: a worker
joins what is ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from ..analyses.times import Times, busy_ms, finish_ms
from ..ir import Graph, Node
from ..ops.primitive import Prefill
from ..prompt import Piece, Slot, slots
from .base import Builder, Context, Rewrite
from .gates import competing, split_gain

__all__ = ["SplitPrefill"]

_TOGETHER = "known together"
_NO_GAIN = "saves less than it costs"


_NOW: Final = (0.0, 0.0)


class _Wait(NamedTuple):
    """How much later a value is known than what is left of it; how long of that the wait is not free."""

    ms: float
    busy_ms: float


class _Cut(NamedTuple):
    """Where a prompt is cut: before piece `place`."""

    place: int
    wait: _Wait
    saved_ms: float


class SplitPrefill:
    """Teola's Pass 3 (section 4.2), at every boundary and with a gate.

    A cut is made if what it lets the model read earlier takes longer than the cut costs: reading two
    segments one after the other instead of both at once, and one more primitive. While the model itself
    works for the value that is waited for, or something on the same processor, nothing is won by reading
    beside it (`competing`).
    """

    name = "split_prefill"

    def __init__(self, context: Context) -> None:
        self._context = context

    def fork(self, context: Context) -> SplitPrefill:
        """The same for another run: it remembers nothing."""
        return SplitPrefill(context)

    def __call__(self, graph: Graph) -> Rewrite:
        """Cut prompts into chains."""
        if not any(_has_late_slot(node) for node in graph):
            return Rewrite(graph, {}, "no prompt waits for a part of it")
        times = finish_ms(graph, self._context.estimator.duration_ms, self._context.known)
        builder = self._context.builder(graph)
        for node in graph:
            cuts = self._cuts(node, graph, times, builder) if _has_late_slot(node) else []
            if cuts:
                self._split(node, cuts, builder)
            else:
                builder.keep(node)
        return builder.rewrite(f"cut {len(builder.changes)} prompts")

    def _cuts(self, node: Node, graph: Graph, times: Times, builder: Builder) -> list[_Cut]:
        op = node.op
        assert isinstance(op, Prefill)
        known_ms = times.get(node.args["kv"].node, _NOW)[1] if "kv" in node.args else 0.0
        cuts: list[_Cut] = []
        begin = 0
        for index, piece in enumerate(op.pieces):
            if not isinstance(piece, Slot):
                continue
            maker = node.args[piece.name].node
            slot_ms = times.get(maker, _NOW)[1]
            if index > begin:
                competes = competing(self._context.deployment, op.model)
                busy = busy_ms(graph, maker, competes, times, known_ms, slot_ms)
                wait = _Wait(max(slot_ms - known_ms, 0.0), busy)
                cut = self._weigh(node, op.pieces[begin:index], op.pieces[index:], wait, index)
                if cut.saved_ms > 0:
                    cuts.append(cut)
                    begin = index
                else:
                    _refuse(node, piece, cut, builder)
            known_ms = max(known_ms, slot_ms)
        return cuts

    def _weigh(
        self, node: Node, left: Sequence[Piece], right: Sequence[Piece], wait: _Wait, index: int
    ) -> _Cut:
        """What cutting between two segments saves, less what it costs."""
        assert isinstance(node.op, Prefill)
        split = split_gain(self._context.deployment, node.op.model, left, right)
        return _Cut(index, wait, min(max(wait.ms - wait.busy_ms, 0.0), split.left_ms) - split.cost_ms)

    def _split(self, node: Node, cuts: Sequence[_Cut], builder: Builder) -> None:
        op = node.op
        assert isinstance(op, Prefill)
        args = builder.renamed(node)
        kv = args.get("kv")
        ends = [cut.place for cut in cuts] + [len(op.pieces)]
        for begin, end in zip([0, *ends], ends, strict=False):
            pieces = op.pieces[begin:end]
            names = slots(pieces)
            part = replace(op, pieces=pieces)
            operands = {name: args[name] for name in names}
            if kv is not None:
                operands["kv"] = kv
            if end == len(op.pieces):
                builder.keep(replace(node, op=part, args=operands))
            else:
                kv = builder.add(part, operands, node)
        saved = sum(cut.saved_ms for cut in cuts)
        waits = ", ".join(f"{cut.wait.ms:.0f} ms" for cut in cuts)
        builder.changed(node, f"cut into {len(ends)} segments: saves {saved:.1f} ms of waits of {waits}")


def _has_late_slot(node: Node) -> bool:
    """Whether a prompt has a slot behind anything else."""
    return isinstance(node.op, Prefill) and any(isinstance(piece, Slot) for piece in node.op.pieces[1:])


def _refuse(node: Node, piece: Slot, cut: _Cut, builder: Builder) -> None:
    if cut.wait.ms <= 0:
        text = f"not cut before {piece.name!r}, which is known as early as what precedes it"
        builder.refused(node, text, _TOGETHER)
    else:
        working = f", its processor at work for {cut.wait.busy_ms:.1f} of it," if cut.wait.busy_ms else ""
        wait = f"with a wait of {cut.wait.ms:.1f} ms{working}"
        wait += f" it would cost {-cut.saved_ms:.1f} ms more than it saves"
        builder.refused(node, f"not cut before {piece.name!r}: {wait}", _NO_GAIN)
