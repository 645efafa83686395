"""Graphs for human eyes: one line a node as text, or a mermaid flowchart.

The text form leaves out what equals its default and what another part of the line says already: the types of
attributes (the results show them) and the model of a node that continues a context.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Final

from .ir import NO_POLICY, Graph, Node, Policy, Value
from .ops.common import Const, Input
from .prompt import Fixed, Message, Slot
from .sampling import Choices, JsonSchema, Regex, Sampling
from .types import Data, Effect, Kv, Text, Vectors

__all__ = ["mermaid", "text"]

_LONGEST: Final = 60  # characters of a constant
_INDENT: Final = "  "

_PROMPTS: Final = frozenset({"messages", "parts", "pieces"})
_FLAT: Final = frozenset({"sampling", "chunking"})
"""Attributes whose own fields stand in the line."""

_STRIPS: Final = {
    "": "{}",
    "left": "lstrip({})",
    "right": "rstrip({})",
    "both": "strip({})",
    "escaped": "escape({})",
}


# ---- text


def text(graph: Graph) -> str:
    """The graph as text: what it takes from outside, one line a node with bodies below, what it returns."""
    return "\n".join(_lines(graph))


def _lines(graph: Graph) -> Iterator[str]:
    for value, kind in graph.outside.items():
        yield f"outside {value}: {_plain(str(kind))}"
    for node in graph:
        yield _line(node, graph)
        for name, body in _bodies(node):
            yield f"{_INDENT}{name}:"
            yield from (f"{_INDENT * 2}{line}" for line in _lines(body))
    yield " ".join(["return", ", ".join(map(str, graph.outputs))]).rstrip()


def _line(node: Node, graph: Graph) -> str:
    types = [graph.types[value] for value in _results(node, graph)]
    results = ", ".join(_plain(str(kind)) for kind in types)
    remark = " ".join(_plain(part) for part in (node.location, repr(node.name) if node.name else "") if part)
    line = f"%{node.id} = {node.op.label()}({', '.join(_arguments(node))}) -> {results}"
    return f"{line}  # {remark}" if remark else line


def _results(node: Node, graph: Graph) -> Iterator[Value]:
    output = 0
    while Value(node.id, output) in graph.types:
        yield Value(node.id, output)
        output += 1


def _bodies(node: Node) -> Iterator[tuple[str, Graph]]:
    for field in fields(node.op):
        value = getattr(node.op, field.name)
        if isinstance(value, Graph):
            yield field.name, value


def _arguments(node: Node) -> Iterator[str]:
    attributes = [(field, getattr(node.op, field.name)) for field in fields(node.op)]
    yield from (_positional(node, value) for field, value in attributes if _is_positional(field, value))
    slots = _slots(node)
    yield from (f"{_word(name)}={value}" for name, value in _operands(node) if name not in slots)
    for field, value in attributes:
        if field.name in _PROMPTS:
            yield from (_segment(part, node) for part in value)
    for field, value in attributes:
        yield from _keyword(field, value, node)
    yield from _fields(node.policy, NO_POLICY)


def _operands(node: Node) -> list[tuple[str, Value]]:
    """The operands in an order that equal nodes share: words by the alphabet, then numbers by size."""
    return sorted(node.args.items(), key=lambda item: (len(item[0]) if item[0].isdecimal() else 0, item))


def _is_positional(field: Field[Any], value: object) -> bool:
    required = field.default is MISSING and field.default_factory is MISSING
    return required and isinstance(value, str | int) and field.name != "model"


def _positional(node: Node, value: str | int) -> str:
    if isinstance(node.op, Const):
        return _clip(node.op.value)
    return _constant(value)


def _keyword(field: Field[Any], value: Any, node: Node) -> Iterator[str]:
    if field.name in _PROMPTS or _is_positional(field, value) or value == field.default:
        return
    match value:
        case Graph() | Text() | Data() | Kv() | Vectors() | Effect():
            return
        case JsonSchema(schema):
            yield f"json_schema={_clip(schema)}"
        case Regex(pattern):
            yield f"regex={_constant(pattern)}"
        case Choices(options):
            yield f"choices={_constant(options)}"
        case _ if field.name in _FLAT:
            yield from _fields(value, type(value)())
        case _ if field.name == "default":
            yield f"default={_clip(value)}"
        case _ if field.name == "model" and "kv" in node.args:
            return
        case _:
            yield f"{field.name}={_constant(value)}"


def _fields(record: Sampling | Policy | Any, default: Any) -> Iterator[str]:
    for field in fields(record):
        value = getattr(record, field.name)
        if value != getattr(default, field.name):
            yield f"{field.name}={_constant(value)}"


def _slots(node: Node) -> frozenset[str]:
    """The operands that stand in the prompt."""
    prompts = [getattr(node.op, field.name) for field in fields(node.op) if field.name in _PROMPTS]
    return frozenset(part.name for prompt in prompts for part in _parts(prompt) if isinstance(part, Slot))


def _parts(prompt: Sequence[Any]) -> Iterator[str | Slot | Fixed]:
    for part in prompt:
        if isinstance(part, Message):
            yield from part.parts
            if part.written:
                yield Slot(part.written)
        else:
            yield part


def _segment(part: Message | str | Fixed | Slot, node: Node) -> str:
    match part:
        case Message(role, written=written) if written:
            return f"{role}({_segment(Slot(written), node)})"
        case Message(role, parts, calls):
            said = [_segment(inner, node) for inner in parts]
            called = [f"{call.name}({call.arguments})" for call in calls]
            return f"{role}({', '.join([*said, *called])})"
        case Slot(name, strip):
            filled = node.args.get(name, "each")  # what a rating reads its prompt with
            return f"{_word(name)}={_STRIPS[strip].format(filled)}"
        case Fixed(constant, trusted):
            return f"trusted {_constant(constant)}" if trusted else _constant(constant)
        case str():
            return _constant(part)


def _constant(value: object) -> str:
    """The value as JSON, shortened."""
    if not isinstance(value, str):
        return _clip(json.dumps(value, ensure_ascii=False))
    if len(value) <= _LONGEST and len(_quoted(value)) <= _LONGEST:
        return _quoted(value)
    kept = value[: _LONGEST - 3]
    while len(_quoted(kept)) >= _LONGEST:
        kept = kept[:-1]
    return _quoted(kept)[:-1] + '…"'


def _quoted(value: str) -> str:
    return _plain(json.dumps(value, ensure_ascii=False))


def _clip(shown: str) -> str:
    """The text on one line, shortened."""
    plain = _plain(shown[: _LONGEST + 1])
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"


def _plain(shown: str) -> str:
    """The text on one line: what does not print is escaped."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in shown)


def _word(name: str) -> str:
    return name if name.isidentifier() or name.isdecimal() else _quoted(name)


# ---- mermaid

_SHAPES: Final = {
    "host": '["{}"]',
    "control": '{{{{"{}"}}}}',
    "llm": '(["{}"])',
    "embed": '[["{}"]]',
    "index": '[("{}")]',
    "rerank": '[/"{}"\\]',
    "tool": '>"{}"]',
}
"""The shape of a node by who runs it."""

_INPUT_SHAPE: Final = '[/"{}"/]'
_VERBATIM: Final = frozenset(" _-.,:%/'")


def mermaid(graph: Graph) -> str:
    """The graph as a mermaid flowchart; bodies of control operations are subgraphs."""
    return "\n".join(["flowchart LR", *_flow(graph, "n", _INDENT)])


def _flow(graph: Graph, prefix: str, indent: str) -> Iterator[str]:
    for node_id in dict.fromkeys(value.node for value in graph.outside):
        yield f'{indent}{prefix}{node_id}(("%{node_id}"))'
    for node in graph:
        shape = _INPUT_SHAPE if isinstance(node.op, Input) else _SHAPES[node.op.kind]
        yield f"{indent}{prefix}{node.id}{shape.format(_escape(_title(node)))}"
        yield from (
            _edge(value, f"{prefix}{node.id}", _edge_label(node, name), prefix, indent)
            for name, value in _operands(node)
        )
        for name, body in _bodies(node):
            yield from _subgraph(body, f"{prefix}{node.id}", name, indent)
    yield f'{indent}{prefix}_return[/"return"/]'
    labels = [str(number) if len(graph.outputs) > 1 else "" for number in range(len(graph.outputs))]
    for value, label in zip(graph.outputs, labels, strict=True):
        yield _edge(value, f"{prefix}_return", label, prefix, indent)


def _subgraph(body: Graph, owner: str, name: str, indent: str) -> Iterator[str]:
    inner = f"{owner}_{name}"
    yield f'{indent}subgraph {inner}["{name}"]'
    yield from _flow(body, f"{inner}_", indent + _INDENT)
    yield f"{indent}end"
    yield f"{indent}{owner} -.-> {inner}"


def _edge(value: Value, target: str, label: str, prefix: str, indent: str) -> str:
    arrow = f'-->|"{_escape(label)}"|' if label else "-->"
    return f"{indent}{prefix}{value.node} {arrow} {target}"


def _edge_label(node: Node, name: str) -> str:
    """The operand's name, where a node has several."""
    return name if len(node.args) > 1 else ""


def _title(node: Node) -> str:
    """The operation, what it works on (an index, a tool, a model, …), and the node's own name."""
    named = [getattr(node.op, field.name) for field in fields(node.op) if field.name in _NAMING]
    shown = [str(value) for value in named if value != ""]
    if isinstance(node.op, Const):
        shown = [node.op.value]
    return " ".join([node.op.label(), *map(_clip, shown), *([f"'{node.name}'"] if node.name else [])])


_NAMING: Final = frozenset({"name", "index", "tool", "key", "form", "model"})


def _escape(label: str) -> str:
    """The label with everything that mermaid could take for syntax as character codes."""
    return "".join(char if char.isalnum() or char in _VERBATIM else f"#{ord(char)};" for char in label)
