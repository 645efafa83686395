"""Common prefixes of prompts, as nodes of their own.

    %1 = prefill("Rules. Q: ", %0)       %9 = prefill("Rules. ")
    %2 = prefill("Rules. Fact: ", %0) -> %1 = prefill(%9, "Q: ", %0)
                                         %2 = prefill(%9, "Fact: ", %0)

A head that stands in the graph already, or did in an earlier increment, serves prompts that come later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby, takewhile
from typing import Final, NamedTuple

from ..ir import Graph, Node, Value
from ..ops.primitive import Prefill
from ..prompt import Fixed, Piece
from .base import Builder, Context, Rewrite
from .gates import shared_ms

__all__ = ["SharedPrefixes"]

_MARKS: Final = {False: "\ue000", True: "\ue001"}
"""What begins an untrusted and a trusted constant where a head is written as one string."""


class _Place(NamedTuple):
    """Where prompts begin: a model, and the context that they continue."""

    model: str
    kv: Value | None


class SharedPrefixes:
    """Parrot's prefix sharing (OSDI'24, section 5.3) as a rewrite, for constants known when compiling."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._heads: dict[_Place, dict[str, Value]] = {}  # prompts that consist of constants alone

    def fork(self, context: Context) -> SharedPrefixes:
        """The same heads in another run."""
        other = SharedPrefixes(context)
        other._heads = {place: dict(heads) for place, heads in self._heads.items()}
        return other

    def __call__(self, graph: Graph) -> Rewrite:
        """Cut common heads off the prompts of an increment."""
        places = _by_place(graph)
        if not places:
            return Rewrite(graph, {}, "no prompt begins with a constant")
        cuts: dict[int, list[str]] = {}  # by node: the heads that it begins with, each longer than the last
        for place, prompts in places.items():
            self._plan(prompts, place, cuts)
        builder = self._context.builder(graph)
        for node in graph:
            if cuts.get(node.id):
                self._cut(node, cuts[node.id], builder)
            else:
                builder.keep(node)
        self._remember(builder.nodes)
        return builder.rewrite(f"{len(builder.changes)} prompts begin with what others begin with")

    def _plan(self, prompts: Sequence[Node], place: _Place, cuts: dict[int, list[str]]) -> None:
        """Find the heads of each prompt: the longest that there is, then those that it shares."""
        known = [head for head, value in self._heads.get(place, {}).items() if value in self._context.types]
        groups: dict[str, dict[int, str]] = {}
        for node in prompts:
            head = _head(node)
            base = max((other for other in known if head.startswith(other)), key=len, default="")
            cuts[node.id] = [base] if base else []
            groups.setdefault(base, {})[node.id] = head
        for base, heads in groups.items():
            self._share(heads, len(base), place.model, cuts)

    def _share(self, heads: dict[int, str], done: int, model: str, cuts: dict[int, list[str]]) -> None:
        """Let prompts share what they have in common beyond the first `done` characters, group by group."""
        marks = "".join(_MARKS.values())
        groups = [(sorted(heads, key=heads.__getitem__), done, done)]  # what they share for sure, what is cut
        while groups:
            nodes, begin, done = groups.pop()
            if len(nodes) < 2:
                continue
            first, last = heads[nodes[0]], heads[nodes[-1]]  # what these two share, all between them share
            common = first[: _common(first, last, begin)].rstrip(marks)
            end = len(common)
            if end > done and shared_ms(self._context.deployment, model, end - done, len(nodes)) > 0:
                for node in nodes:
                    cuts[node].append(common)
                done = end
            branches = groupby(nodes, key=lambda node: heads[node][end : end + 2])
            groups += [(list(members), end, done) for branch, members in branches if branch.strip(marks)]

    def _cut(self, node: Node, chain: Sequence[str], builder: Builder) -> None:
        """Let a prompt continue the last head of its chain; those that are not there yet come before it."""
        op, args = node.op, builder.renamed(node)
        assert isinstance(op, Prefill)
        heads = self._heads.setdefault(_Place(op.model, args.get("kv")), {})
        begun = ""
        for head in chain:
            if heads.get(head) not in builder.types:
                before = {"kv": heads[begun]} if begun else {n: v for n, v in args.items() if n == "kv"}
                added = Prefill(op.model, _pieces(head, len(begun)))
                heads[head] = builder.add(added, before, node, name="")
            begun = head
        rest = _after(op.pieces, begun)
        if rest:
            tail = replace(op, pieces=rest)
            builder.keep(replace(node, op=tail, args={**args, "kv": heads[begun]}))
        else:
            builder.replace(Value(node.id), heads[begun])
        builder.changed(node, f"begins with %{heads[begun].node}, as others do")

    def _remember(self, nodes: Iterable[Node]) -> None:
        """Keep prompts that consist of constants alone for those to come."""
        for node in nodes:
            if isinstance(node.op, Prefill) and not node.args.keys() - {"kv"}:
                self._heads.setdefault(_place(node), {}).setdefault(_head(node), Value(node.id))


def _by_place(graph: Graph) -> dict[_Place, list[Node]]:
    """The prompts that begin with a constant."""
    places: dict[_Place, list[Node]] = {}
    for node in graph:
        if isinstance(node.op, Prefill) and _head(node):
            places.setdefault(_place(node), []).append(node)
    return places


def _place(node: Node) -> _Place:
    assert isinstance(node.op, Prefill)
    return _Place(node.op.model, node.args.get("kv"))


def _head(node: Node) -> str:
    """The constants that a prompt begins with as one string; empty if they hold a mark themselves."""
    assert isinstance(node.op, Prefill)
    fixed = takewhile(lambda piece: isinstance(piece, Fixed), node.op.pieces)
    texts = [(piece.trusted, piece.text) for piece in fixed if isinstance(piece, Fixed)]
    if any(mark in text for _, text in texts for mark in _MARKS.values()):
        return ""
    return "".join(_MARKS[trusted] + text for trusted, text in texts)


def _common(first: str, last: str, begin: int) -> int:
    """How many characters two texts begin with alike, of which they share `begin` for sure."""
    shortest = min(len(first), len(last))
    return next((at for at in range(begin, shortest) if first[at] != last[at]), shortest)


def _pieces(head: str, start: int) -> tuple[Fixed, ...]:
    """The constants of a head beyond its first `start` characters."""
    trusted = head.rfind(_MARKS[True], 0, start) > head.rfind(_MARKS[False], 0, start)
    pieces: list[Fixed] = []
    text = ""
    for char in head[start:]:
        if char not in _MARKS.values():
            text += char
            continue
        pieces += [Fixed(text, trusted)] if text else []
        trusted, text = char == _MARKS[True], ""
    return (*pieces, Fixed(text, trusted))


def _after(pieces: tuple[Piece, ...], head: str) -> tuple[Piece, ...]:
    """What is left of a prompt behind a head that it begins with."""
    left = len(head)
    for index, piece in enumerate(pieces):
        if not left:
            return pieces[index:]
        assert isinstance(piece, Fixed)
        size = 1 + len(piece.text)
        if left < size:
            return (Fixed(piece.text[left - 1 :], piece.trusted), *pieces[index + 1 :])
        left -= size
    return ()
