"""Lowering of what a model reads and writes: prompts to chains of KV values."""

from __future__ import annotations

from collections.abc import Mapping

from ..deployment import ModelSpec
from ..errors import GraphError
from ..ir import Node, Value
from ..ops.common import Format, Gather, Parse
from ..ops.primitive import Decode, Prefill, Score, Weigh
from ..ops.user import Generate, Probe, Select
from ..prompt import Fixed, Message, Piece, Slot, Strip, merge_fixed, slots
from ..types import Data, Text
from .base import Builder, Context, follow

__all__ = ["PromptLowering"]

_Read = Fixed | tuple[Value, Strip]
_Key = tuple[str, tuple[_Read, ...]]
"""A model, and what it has read: constants, and values in place of slots."""


class PromptLowering:
    """Lowers `generate`, `select`, `probe`; remembers what each model has read and written in this run."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._deployment = context.deployment
        self._written: dict[_Key, Value] = {}  # the kv after a decode, by all that was read and written
        self._texts: dict[Value, Value] = {}  # data, and its text
        self._prompts: dict[tuple[str, tuple[Message, ...]], tuple[Piece, ...]] = {}  # as rendered
        self._new: list[_Key] = []  # keys of `_written` that this increment has added

    def fork(self, context: Context) -> PromptLowering:
        """The same memory in another run."""
        other = PromptLowering(context)
        other._written, other._texts, other._new = dict(self._written), dict(self._texts), list(self._new)
        other._prompts = self._prompts  # a chat template says the same in every run
        return other

    def rename(self) -> None:
        """Call what the last increment made as later passes left it; after that, names do not change."""
        aliases = self._context.aliases
        for key in self._new:
            model, read = key
            renamed = tuple(p if isinstance(p, Fixed) else (follow(aliases, p[0]), p[1]) for p in read)
            self._written[(model, renamed)] = follow(aliases, self._written.pop(key))
        self._new.clear()

    def generate(self, node: Node, op: Generate, builder: Builder) -> None:
        """`generate` -> prefill, `n` decodes, parse. What follows `ids` is not known by them later on."""
        spec = self._deployment.model(op.model)
        kv, key = (None, None) if op.ids else self._read(node, op.messages, spec, builder)
        texts: list[Value] = []
        for sample in range(op.n):
            sampling = op.sampling if op.sampling.greedy else op.sampling.of_sample(sample)
            decoded = builder.add(
                Decode(spec.name, sampling, op.constraint, op.logprobs, op.cache, op.ids),
                {} if kv is None else {"kv": kv},
                node,
            )
            text = Value(decoded.node, 1)
            if key is not None:
                written = (key[0], (*key[1], (text, "")))
                self._written[written] = decoded
                self._new.append(written)
            texts.append(text)
        values = [self._typed(node, op, text, builder) for text in texts]
        if op.n > 1:
            values, texts = ([_listed(node, found, builder)] for found in (values, texts))
        builder.replace(Value(node.id, 0), values[0])
        builder.replace(Value(node.id, 1), texts[0])
        if op.logprobs is not None:
            builder.replace(Value(node.id, 2), Value(texts[0].node, 2))

    def select(self, node: Node, op: Select, builder: Builder) -> None:
        """`select` -> prefill, score."""
        spec = self._deployment.model(op.model)
        kv, _ = self._read(node, op.messages, spec, builder)
        scored = builder.add(Score(spec.name, op.choices, op.method, cache=op.cache), {"kv": kv}, node)
        builder.replace(Value(node.id, 0), scored)
        builder.replace(Value(node.id, 1), Value(scored.node, 1))

    def probe(self, node: Node, op: Probe, builder: Builder) -> None:
        """`probe` -> prefill, weigh."""
        spec = self._deployment.model(op.model)
        kv = {} if op.ids else {"kv": self._read(node, op.messages, spec, builder)[0]}
        count = builder.add(Weigh(spec.name, op.ids, op.start, op.top), kv, node)
        builder.replace(Value(node.id, 0), count)
        builder.replace(Value(node.id, 1), Value(count.node, 1))

    def pieces(self, node: Node, messages: tuple[Message, ...]) -> tuple[str, tuple[Piece, ...]]:
        """The default model, and the messages as it reads them."""
        spec = self._deployment.model("")
        return spec.name, self._assembled(node, messages, spec)

    def _assembled(self, node: Node, messages: tuple[Message, ...], spec: ModelSpec) -> tuple[Piece, ...]:
        pieces = self._prompts.get((spec.name, messages))
        if pieces is None:
            pieces = self._prompts[spec.name, messages] = _assemble(node, messages, spec)
        return pieces

    def _typed(self, node: Node, op: Generate, text: Value, builder: Builder) -> Value:
        return builder.add(Parse(op.type), {"text": text}, node) if isinstance(op.type, Data) else text

    def _read(
        self, node: Node, messages: tuple[Message, ...], spec: ModelSpec, builder: Builder
    ) -> tuple[Value, _Key]:
        """The kv value of a model that has read the prompt."""
        pieces = self._assembled(node, messages, spec)
        values = self._slot_texts(node, pieces, builder)
        known = tuple(p if isinstance(p, Fixed) else (values[p.name], p.strip) for p in pieces)
        done, kv = self._longest_written(spec.name, known, builder)
        rest = pieces[done:]
        if kv is not None and not rest:
            return kv, (spec.name, known)
        args = {name: values[name] for name in slots(rest)}
        if kv is not None:
            args["kv"] = kv
        prefill = builder.add(Prefill(spec.name, rest), args, node)
        return prefill, (spec.name, known)

    def _longest_written(
        self, model: str, known: tuple[_Read, ...], builder: Builder
    ) -> tuple[int, Value | None]:
        """How many pieces an earlier decode of this prompt covers, itself included, and its kv value.

        What the model wrote counts as it wrote it, even where its template would strip white space.
        """
        for length in range(len(known), 0, -1):
            last = known[length - 1]
            if isinstance(last, Fixed):
                continue
            kv = self._written.get((model, (*known[: length - 1], (last[0], ""))))
            if kv in builder.types:
                return length, kv
        return 0, None

    def _slot_texts(self, node: Node, pieces: tuple[Piece, ...], builder: Builder) -> Mapping[str, Value]:
        """The operands of a prompt by slot name, each as text."""
        operands = builder.renamed(node)
        texts: dict[str, Value] = {}
        for name in slots(pieces):
            value = operands["kv" if name == _KV else name]
            texts[name] = (
                value if isinstance(builder.types[value], Text) else self._text(node, value, builder)
            )
        return texts

    def _text(self, node: Node, value: Value, builder: Builder) -> Value:
        known = follow(self._context.aliases, self._texts[value]) if value in self._texts else None
        if known is None or known not in builder.types:
            known = builder.add(Format((Slot("value"),)), {"value": value}, node, name="")
            self._texts[value] = known
        return known


_KV = "kv_"  # what a slot called "kv" is called in a prefill, whose operand of that name is the context


def _assemble(node: Node, messages: tuple[Message, ...], spec: ModelSpec) -> tuple[Piece, ...]:
    roles = {message.role for message in messages}
    if "raw" in roles and len(roles) > 1:
        raise GraphError(f"{node.where()}: raw text and chat messages do not go into one prompt")
    if "raw" in roles:
        pieces = _constants(messages, trusted=True)
    elif spec.chat is None:
        pieces = _without_template(node, messages, spec)
    else:
        pieces = _with_template(node, messages, spec)
    return merge_fixed(Slot(_KV, p.strip) if isinstance(p, Slot) and p.name == "kv" else p for p in pieces)


def _with_template(node: Node, messages: tuple[Message, ...], spec: ModelSpec) -> tuple[Piece, ...]:
    """The chat as the template writes it; a last message of the assistant is a beginning to go on from."""
    assert spec.chat is not None
    last = messages[-1]
    begun = (last,) if last.role == "assistant" and not (last.calls or last.written) else ()
    closed = messages[: len(messages) - len(begun)]
    try:
        return spec.chat.render(closed, add_generation_prompt=True) + _constants(begun, trusted=False)
    except ValueError as problem:
        raise GraphError(
            f"{node.where()}: the chat template of model {spec.name!r} refuses: {problem}"
        ) from None


def _without_template(node: Node, messages: tuple[Message, ...], spec: ModelSpec) -> tuple[Piece, ...]:
    if [message.role for message in messages] not in (["user"], ["system", "user"]):
        raise GraphError(
            f"{node.where()}: model {spec.name!r} has no chat template, so it cannot hold a conversation; "
            "write the prompt as text with raw=True or Context().text()"
        )
    pieces: list[Piece] = []
    for message in messages:
        pieces += [Fixed("\n\n")] if pieces else []
        pieces += _constants((message,), trusted=False)
    return tuple(pieces)


def _constants(messages: tuple[Message, ...], *, trusted: bool) -> tuple[Piece, ...]:
    parts = [part for message in messages for part in message.parts]
    return tuple(Fixed(part, trusted) if isinstance(part, str) else part for part in parts)


def _listed(node: Node, values: list[Value], builder: Builder) -> Value:
    return builder.add(Gather("list"), {str(i): value for i, value in enumerate(values)}, node, name="")
