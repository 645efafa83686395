"""Operations that users write and workers run alike, and those that the orchestrator computes itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from .. import schema as json_schema
from ..errors import OperandError
from ..prompt import Part, slots
from ..types import BOOLEAN, JSON, PASSAGES, TEXT, VECTORS, Data, Effect, Kv, Text, Type, Vectors
from .base import Dialect, EngineKind, Op, expect, expect_operands

__all__ = [
    "Const",
    "Embed",
    "Equals",
    "Format",
    "Forward",
    "Gather",
    "Input",
    "Interrupt",
    "Neighbours",
    "Order",
    "Parse",
    "Project",
    "Search",
    "SearchMode",
    "Tool",
]

SearchMode = Literal["hybrid", "vector", "lexical"]


@dataclass(frozen=True, slots=True)
class Input(Op):
    """A value that the caller of the graph gives by `name`; `default` is JSON text, or None if required."""

    name: str
    type: Type = TEXT
    default: str | None = None

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """One value of the declared type."""
        expect_operands(args, ())
        if not isinstance(self.type, (Text, Data)):
            raise OperandError(f"an input must be text or data, not {self.type}")
        if self.default is not None:
            _expect_json(self.default, self.type, "default")
        return (self.type,)


@dataclass(frozen=True, slots=True)
class Const(Op):
    """A constant; `value` is its JSON text."""

    value: str
    type: Type = JSON

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """One value of the declared type."""
        expect_operands(args, ())
        if not isinstance(self.type, (Text, Data)):
            raise OperandError(f"a constant must be text or data, not {self.type}")
        _expect_json(self.value, self.type, "value")
        return (self.type,)


@dataclass(frozen=True, slots=True)
class Format(Op):
    """Text from constant parts and operands."""

    parts: tuple[Part, ...]

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """One text."""
        expect_operands(args, slots(self.parts))
        expect_renderable(args)
        return (TEXT,)


@dataclass(frozen=True, slots=True)
class Project(Op):
    """A field or an item of `value`: a name for objects, an index for lists.

    `default` is the JSON text of what an object gives that leaves the field out, or None if none may.
    """

    key: str | int
    default: str | None = None

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The value there; text where the schema says string."""
        expect_operands(args, ("value",))
        expect(args, "value", Data)
        source = args["value"]
        assert isinstance(source, Data)
        if isinstance(self.key, int):
            if self.default is not None:
                raise OperandError("an item has no default, only a field")
            return (_from_schema(json_schema.item(source.schema, self.key)),)
        known = json_schema.fields(source.schema)
        if known is not None and known and self.key not in known:
            raise OperandError(f"there is no field {self.key!r}; known: {', '.join(map(repr, known))}")
        kind = _from_schema(json_schema.field(source.schema, self.key))
        if self.default is not None:
            _expect_json(self.default, kind, "default")
        return (kind,)


@dataclass(frozen=True, slots=True)
class Gather(Op):
    """A list of the operands "0", "1", …, or an object whose fields are the operands."""

    form: Literal["list", "object"]

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """One data value."""
        if self.form == "list":
            expect_operands(args, tuple(str(index) for index in range(len(args))))
        for name, kind in args.items():
            if isinstance(kind, (Kv, Effect)):
                raise OperandError(f"operand {name!r} is a {kind}, which cannot be part of data")
        if self.form == "object":
            return (
                Data(
                    json_schema.canonical(
                        {"type": "object", "properties": {name: {} for name in sorted(args)}}
                    )
                ),
            )
        return (Data(json_schema.list_of(json_schema.ANY)),)


@dataclass(frozen=True, slots=True)
class Parse(Op):
    """The value that a typed decode wrote as `text`: JSON, conforming to the schema of `type`."""

    type: Data
    dialect: ClassVar[Dialect] = "primitive"

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """One data value."""
        expect_operands(args, ("text",))
        expect(args, "text", Text)
        return (self.type,)


@dataclass(frozen=True, slots=True)
class Equals(Op):
    """Whether operands `a` and `b` are equal."""

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """One boolean."""
        expect_operands(args, ("a", "b"))
        expect_renderable(args)
        return (BOOLEAN,)


@dataclass(frozen=True, slots=True)
class Order(Op):
    """No data, only order: whoever takes it writes to `index` after what was read from it.

    That are the operands "0", "1", …; the effect `after` on the index comes before, too.
    """

    index: str

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The order."""
        reads = len(args) - ("after" in args)
        expect_operands(args, tuple(str(number) for number in range(reads)), ("after",))
        expect(args, "after", Effect)
        return (Effect(self.index),)


@dataclass(frozen=True, slots=True)
class Forward(Op):
    """The operand itself: what a control operation becomes once its branch is known."""

    type: Type
    dialect: ClassVar[Dialect] = "primitive"

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The value, at the type that its users were promised."""
        expect_operands(args, ("value",))
        return (self.type,)


@dataclass(frozen=True, slots=True)
class Embed(Op):
    """Embeddings of one text or of a list of texts; an empty `model` is the deployment's default."""

    model: str = ""
    kind: ClassVar[EngineKind] = "embed"
    batchable: ClassVar[bool] = True
    splittable: ClassVar[bool] = True

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """A float32 matrix [texts, dimension]; one row for one text."""
        expect_operands(args, ("texts",))
        expect(args, "texts", Text, Data)
        return (VECTORS,)


@dataclass(frozen=True, slots=True)
class Search(Op):
    """The best `k` passages of an index for a query, or for each of a list of queries.

    The passages of several queries follow one another without repetition. `where` is an object: a passage is
    found only if its metadata has the value of each field, or one of them if that is a list. `vectors` are
    the queries' embeddings, which lowering adds unless the search is lexical.
    """

    index: str
    mode: SearchMode = "hybrid"
    kind: ClassVar[EngineKind] = "index"
    batchable: ClassVar[bool] = True
    splittable: ClassVar[bool] = True

    @property
    def deterministic(self) -> bool:
        """Never: somebody else may write to the index between two searches."""
        return False

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """Passages."""
        expect_operands(args, ("query", "k"), ("where", "vectors", "after"))
        expect(args, "query", Text, Data)
        expect(args, "k", Data)
        expect(args, "where", Data)
        expect(args, "vectors", Vectors)
        expect(args, "after", Effect)
        return (PASSAGES,)


@dataclass(frozen=True, slots=True)
class Neighbours(Op):
    """Passages of an index, each between those that stand before and after it in its document.

    No passage comes twice; those of one document that touch stand together, in the order of the document.
    """

    index: str
    preceding: int = 1
    following: int = 1
    kind: ClassVar[EngineKind] = "index"

    @property
    def deterministic(self) -> bool:
        """Never: somebody else may write to the index between two look-ups."""
        return False

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """Passages."""
        expect_operands(args, ("passages",), ("after",))
        expect(args, "passages", Data)
        expect(args, "after", Effect)
        if self.preceding < 0 or self.following < 0:
            raise OperandError(
                f"counts of neighbours must not be negative, not {self.preceding} and {self.following}"
            )
        return (PASSAGES,)


@dataclass(frozen=True, slots=True)
class Tool(Op):
    """A call of a Python function, run by the client that submitted the graph or by a tool worker."""

    tool: str
    result: Type = JSON
    where: Literal["client", "server"] = "client"
    idempotent: bool = False
    """Whether it may run again when it is not known if it has run."""
    pure: bool = False
    """Whether equal arguments give equal results and nothing is changed."""
    kind: ClassVar[EngineKind] = "tool"

    @property
    def deterministic(self) -> bool:
        """As its author declared."""
        return self.pure

    @property
    def effectful(self) -> bool:
        """Unless its author declared it pure."""
        return not self.pure

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """One value of the declared type; the operands are the function's arguments."""
        expect_renderable(args)
        if not isinstance(self.result, (Text, Data)):
            raise OperandError(f"a tool must return text or data, not {self.result}")
        return (self.result,)


@dataclass(frozen=True, slots=True)
class Interrupt(Op):
    """The answer of a person to `value`; what takes it waits until it is given."""

    type: Type = TEXT
    kind: ClassVar[EngineKind] = "tool"

    @property
    def deterministic(self) -> bool:
        """Never: people change their minds."""
        return False

    @property
    def effectful(self) -> bool:
        """Somebody is asked."""
        return True

    def results(self, args: Mapping[str, Type]) -> tuple[Type, ...]:
        """The answer."""
        expect_operands(args, ("value",))
        expect_renderable(args)
        if not isinstance(self.type, (Text, Data)):
            raise OperandError(f"a person can answer with text or data, not {self.type}")
        return (self.type,)


def expect_renderable(args: Mapping[str, Type]) -> None:
    """Refuse operands that have no textual form."""
    for name, kind in args.items():
        if not isinstance(kind, (Text, Data)):
            raise OperandError(f"operand {name!r} is a {kind}, which has no textual form")


def _expect_json(text: str, kind: Type, attribute: str) -> None:
    """Refuse what is not JSON text, or not that of a string where a text is promised."""
    try:
        value = json_schema.loads(text)
    except ValueError as problem:
        raise OperandError(f"{attribute} is not JSON text: {problem}") from None
    if isinstance(kind, Text) and not isinstance(value, str):
        raise OperandError(f"{attribute} of type text must be a JSON string, not {text[:40]}")


@lru_cache(1024)
def _from_schema(schema: str) -> Type:
    return TEXT if json.loads(schema).get("type") == "string" else Data(schema)
