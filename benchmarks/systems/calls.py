"""What the baselines call: the model through an HTTP door, by OpenAI's client, and an index.

The index is searched in this process, which costs a baseline no message at all. It is the server's own, so
what is found is what weft finds.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Protocol

import openai
from plans.language import (
    ITEM,
    Ask,
    Branch,
    Compute,
    Each,
    Plan,
    Search,
    Step,
    Tool,
    Values,
    filled,
    found,
    reads,
)
from pydantic import TypeAdapter

from weft import Passage
from weft.runtime.retrieval.embedder import HashEmbedder
from weft.runtime.retrieval.index import IndexStore
from weft.runtime.retrieval.lance import LanceTables
from weft.runtime.retrieval.rerank import merge_queries

__all__ = ["Calls", "Door", "Run", "Runner", "item_values", "prepared", "short"]

Run = Callable[[Values], Coroutine[Any, Any, Any]]
"""A plan that is ready to be run: from its inputs to its result."""

Runner = Callable[[Plan, "Calls"], Run]
"""How a framework makes a plan ready."""

_SECONDS: Final = 120.0  # that an answer may take


class Calls(Protocol):
    """The calls that leave the framework."""

    async def ask(self, ask: Ask, values: Values) -> Any:
        """What the model writes."""
        ...

    async def search(self, query: str | Sequence[str], k: int) -> list[Passage]:
        """The best `k` passages for each query, each once."""
        ...


class Door:
    """A model behind an HTTP door, and an index. Close it after use."""

    def __init__(
        self, url: str, model: str, salt: str, indexes: Path, index: str, *, forced: bool = False
    ) -> None:
        """`salt`: calls with another one share nothing that the model has read.

        Without one, no call shares anything. `forced`: texts have the length that their steps allow.
        """
        self._client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=_SECONDS)
        self.url = url
        self.salt = salt
        self.forced = forced
        self._model = model
        self._index = index
        self._store = IndexStore(LanceTables(indexes))
        self._embedder = HashEmbedder()

    async def ask(self, ask: Ask, values: Values) -> Any:
        """One chat completion, greedy."""
        extra = {"cache_salt": self.salt or token_hex(8), **ask.ends(self.forced)}
        options: dict[str, Any] = {"extra_body": extra}
        if ask.form is not str:
            schema = {"name": ask.name, "schema": TypeAdapter(ask.form).json_schema()}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        messages: list[Any] = [{"role": role, "content": filled(text, values)} for role, text in ask.messages]
        answer = await self._client.chat.completions.create(
            model=self._model,
            messages=messages,
            temperature=0,
            max_tokens=ask.tokens,
            **options,
        )
        text = answer.choices[0].message.content or ""
        return text if ask.form is str else TypeAdapter(ask.form).validate_json(text)

    async def search(self, query: str | Sequence[str], k: int) -> list[Passage]:
        """As weft's own `search`, without a message."""
        queries = [query] if isinstance(query, str) else list(query)
        lists = self._store.search(
            self._index, queries, self._embedder.embed(queries), [k] * len(queries), "hybrid"
        )
        return [Passage(p.id, p.text, p.score, p.source, p.metadata) for p in merge_queries(lists)]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def prepared(step: Step, calls: Calls, runner: Runner) -> Run:
    """A step that a framework runs as one, from the values before it to its result."""
    if isinstance(step, Each):
        raise TypeError("every framework spreads the items of a list in its own way")
    branch = runner(step.otherwise, calls) if isinstance(step, Branch) else None

    async def run(values: Values) -> Any:
        match step:
            case Ask():
                return await calls.ask(step, values)
            case Search():
                return await calls.search(found(step.query, values), step.k)
            case Tool():
                return await step.function(*(found(taken, values) for taken in step.takes))
            case Compute():
                return step.function(*(found(taken, values) for taken in step.takes))
            case Branch():
                if found(step.text, values) == step.equals:
                    return found(step.then, values)
                assert branch is not None
                return await branch({name: values[name] for name in step.otherwise.inputs})

    return run


def short(plan: Plan, calls: Calls, runner: Runner) -> Run:
    """A body in a framework; if it is one step, just that step, as a person would write it."""
    if len(plan.steps) != 1 or isinstance(plan.steps[0], Each):
        return runner(plan, calls)
    (step,) = plan.steps
    done = prepared(step, calls, runner)

    async def run(values: Values) -> Any:
        return plan.value({**values, step.name: await done(values)})

    return run


def item_values(each: Each, values: Values) -> list[Mapping[str, Any]]:
    """The inputs of the body for each item."""
    around = {name: values[name] for name in reads(each) & set(each.body.inputs)}
    return [{**around, ITEM: item} for item in found(each.over, values)]
