"""The plan language: an application as named steps that refer to what earlier steps gave.

A plan is data. Every system of the suite runs it in its own way, so that each baseline is written once for
each framework, and not once for each workload, and so that all send the same prompts.

References are written as in `str.format`: ``{question}``, ``{best[0].text}``. Where a value is wanted rather
than a text, such a reference stands alone without braces.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any, Final

from pydantic import BaseModel

from weft import Passage, Var
from weft.frontend.passages import Passages

__all__ = [
    "ITEM",
    "Ask",
    "Branch",
    "Compute",
    "Each",
    "Plan",
    "PlanError",
    "Search",
    "Step",
    "Tool",
    "Values",
    "filled",
    "found",
    "reads",
]

ITEM: Final = "item"
"""What the body of an `Each` calls the item of the list."""

Values = Mapping[str, Any]
"""The inputs of a plan, and the results of its steps so far, by name."""


class PlanError(ValueError):
    """A plan refers to what there is not, or gives one name twice."""


@dataclass(frozen=True)
class Ask:
    """A call of the language model, greedy."""

    name: str
    messages: tuple[tuple[str, str], ...]
    """Role and text of each message, the texts with references; the last is the user's."""
    tokens: int
    """The most that the model may write."""
    stop: str = ""
    form: Any = str
    """`str`, or a type (`list[str]`, a pydantic model) that the answer is constrained to and read as."""

    def texts(self) -> Iterator[str]:
        """What refers to values."""
        return (text for _, text in self.messages)

    def ends(self, forced: bool) -> dict[str, Any]:
        """The options that say where a text ends besides `tokens`; `forced`: nowhere before."""
        if forced:
            return {"ignore_eos": True} if self.form is str else {}
        return {"stop": self.stop} if self.stop else {}


@dataclass(frozen=True)
class Search:
    """The best passages of the index for a query, or, for a list of queries, those of all, each once."""

    name: str
    query: str
    k: int

    def texts(self) -> Iterator[str]:
        """What refers to values."""
        yield f"{{{self.query}}}"


@dataclass(frozen=True)
class Tool:
    """A function that takes time, such as a look-up in the web: `async`, of texts, with annotations."""

    name: str
    function: Callable[..., Awaitable[Any]]
    takes: tuple[str, ...]

    def texts(self) -> Iterator[str]:
        """What refers to values."""
        return (f"{{{taken}}}" for taken in self.takes)


@dataclass(frozen=True)
class Compute:
    """A Python function of values, which takes no time. It stands in no body of an `Each` or a `Branch`."""

    name: str
    function: Callable[..., Any]
    takes: tuple[str, ...]

    def texts(self) -> Iterator[str]:
        """What refers to values."""
        return (f"{{{taken}}}" for taken in self.takes)


@dataclass(frozen=True)
class Each:
    """The body for every item of a list, independently; the list of its results, in order.

    The body has the input `item` and, by their names, whatever else it takes from around it.
    """

    name: str
    over: str
    body: Plan

    def texts(self) -> Iterator[str]:
        """What refers to values."""
        yield f"{{{self.over}}}"
        yield from (f"{{{name}}}" for name in self.body.inputs if name != ITEM)


@dataclass(frozen=True)
class Branch:
    """The value `then` if a text `equals` another, else the result of a plan, which takes what it names."""

    name: str
    text: str
    equals: str
    then: str
    otherwise: Plan

    def texts(self) -> Iterator[str]:
        """What refers to values."""
        yield from (f"{{{self.text}}}", f"{{{self.then}}}")
        yield from (f"{{{name}}}" for name in self.otherwise.inputs)


Step = Ask | Search | Tool | Compute | Each | Branch


@dataclass(frozen=True)
class Plan:
    """An application. Raises PlanError where a reference leads nowhere or a step is of no use."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    """Each step comes after those that it refers to."""
    result: str | tuple[str, ...]
    """A reference, or several for a list."""
    lists: frozenset[str] = frozenset()
    """The inputs that are lists of texts; the others are texts."""

    def __post_init__(self) -> None:
        known = set(self.inputs)
        for step in self.steps:
            unknown = reads(step) - known
            if unknown:
                raise PlanError(
                    f"step {step.name!r} refers to {sorted(unknown)[0]!r}, which nothing before it gives"
                )
            if step.name in known:
                raise PlanError(f"there are two values called {step.name!r}; give each a name of its own")
            known.add(step.name)
        used = self.results.union(*map(reads, self.steps))
        for name in sorted((used - known) | ({step.name for step in self.steps} - used)):
            raise PlanError(f"the plan gives no {name!r}" if name not in known else f"nothing uses {name!r}")

    @cached_property
    def results(self) -> frozenset[str]:
        """The names that the result refers to."""
        return frozenset(_names([f"{{{reference}}}" for reference in _listed(self.result)]))

    def before(self, step: Step) -> tuple[str, ...]:
        """The steps that must be done before `step`, without those that another of them waits for anyway."""
        by_name = {other.name: other for other in self.steps}
        direct = [other.name for other in self.steps if other.name in reads(step)]

        def behind(name: str) -> set[str]:
            above = {taken for taken in reads(by_name[name]) if taken in by_name}
            return above.union(*map(behind, above))

        implied = set[str]().union(*map(behind, direct))
        return tuple(name for name in direct if name not in implied)

    def value(self, values: Values) -> Any:
        """The result, once all steps are done."""
        if isinstance(self.result, str):
            return found(self.result, values)
        return [found(reference, values) for reference in self.result]

    def asks(self) -> int:
        """How many calls of the model the plan has at least: those of lists and branches count once."""
        return sum(isinstance(step, Ask) for step in self.steps) + sum(body.asks() for body in self._bodies())

    def searches(self) -> bool:
        """Whether the plan needs the index."""
        return any(isinstance(step, Search) for step in self.steps) or any(
            body.searches() for body in self._bodies()
        )

    def _bodies(self) -> list[Plan]:
        return [
            s.body if isinstance(s, Each) else s.otherwise for s in self.steps if isinstance(s, Each | Branch)
        ]


def reads(step: Step) -> frozenset[str]:
    """The names of the values that a step refers to."""
    return frozenset(_names(step.texts()))


class _Prompts(Formatter):
    """Puts values into prompts as weft does: lists one item a line, passages numbered, objects as JSON."""

    def format_field(self, value: Any, format_spec: str) -> str:
        match value:
            case str() | Var() | Passage() | Passages():
                return f"{value}"
            case list() if value and all(isinstance(item, Passage) for item in value):
                return f"{Passages(value)}"
            case list():
                return "\n".join(self.format_field(item, "") for item in value)
            case BaseModel():
                return json.dumps(value.model_dump(mode="json"), ensure_ascii=False)
            case _:
                return json.dumps(value, ensure_ascii=False)


_PROMPTS: Final = _Prompts()


def filled(template: str, values: Values) -> str:
    """A text with the values that it refers to; those of weft's own runs may still be to come."""
    return _PROMPTS.vformat(template, (), values)


def found(reference: str, values: Values) -> Any:
    """The value that a reference leads to."""
    value, _ = _PROMPTS.get_field(reference, (), values)
    return value


def _names(templates: Iterator[str] | Sequence[str]) -> Iterator[str]:
    for template in templates:
        for _, field, _, _ in _PROMPTS.parse(template):
            if field is not None:
                yield field.partition(".")[0].partition("[")[0]


def _listed(result: str | tuple[str, ...]) -> tuple[str, ...]:
    return (result,) if isinstance(result, str) else result
