"""Programs that share workers, each as a graph and call by call, and when they arrive.

Both forms send the same prompts: what is known of a program before it runs is all that differs. Texts have
forced lengths.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from weft import Client, Context, gen, program

from .nonsense import nonsense

__all__ = ["SCENARIOS", "Arrival", "arrivals", "starts"]

PARTS: Final = 8  # of a map-reduce, and of a chain
TURNS: Final = 3
THINKS_S: Final = 0.4  # a user, between turns
FAMILIES: Final = 4
WEIGHTS: Final = (8, 4, 2, 1)  # of families
FILES: Final = 8

_ROLE: Final = {role: nonsense(random.Random(role), 120) for role in ("architect", "coder", "reviewer")}


def _gen(prompt: str, tokens: int) -> Any:
    return gen(prompt, max_tokens=tokens, ignore_eos=True)


async def _awaited(text: Awaitable[str]) -> str:
    return str(await text)


# ---- chats


@program
async def chat(question: str, more: list[str]) -> str:
    """Turns of a conversation with somebody who thinks between them: it is never known before."""
    context = Context().user(question)
    said = str(await context.gen(max_tokens=24, ignore_eos=True))
    for follow_up in more:
        await asyncio.sleep(THINKS_S)
        context.user(follow_up)
        said = str(await context.gen(max_tokens=24, ignore_eos=True))
    return said


# ---- map-reduce


def _part(chunk: str) -> Any:
    return _gen(f"Summarize: {chunk}\nSummary:", 16)


def _whole(parts: Sequence[Any]) -> Any:
    text = parts[0]
    for part in parts[1:]:
        text = f"{text}\n{part}"
    return _gen(f"Summaries:\n{text}\nTogether:", 24)


@program
def map_reduce(chunks: list[str]) -> str:
    """Summaries of parts, and one of these."""
    whole: str = _whole([_part(chunks[number]) for number in range(PARTS)])
    return whole


@program
async def map_reduce_calls(chunks: list[str]) -> str:
    """The same, call by call."""
    return str(await _whole(await asyncio.gather(*(_awaited(_part(chunk)) for chunk in chunks))))


# ---- chains


def _longer(so_far: Any, chunk: str) -> Any:
    return _gen(f"Summarize what was before and what follows.\nBefore: {so_far}\n{chunk}\nSummary:", 16)


@program
def chain(chunks: list[str]) -> str:
    """Each part is summarized with the summary of those before it (Parrot, OSDI'24, section 8.2)."""
    so_far = ""
    for number in range(PARTS):
        so_far = _longer(so_far, chunks[number])
    return so_far


@program
async def chain_calls(chunks: list[str]) -> str:
    """The same, call by call."""
    so_far = ""
    for chunk in chunks:
        so_far = str(await _longer(so_far, chunk))
    return so_far


# ---- a team that writes a program


def _design(task: str) -> Any:
    return _gen(f"{_ROLE['architect']}\nTask: {task}\nInterfaces:", 96)


def _code(task: str, api: Any, number: int) -> Any:
    return _gen(f"{_ROLE['coder']}\nTask: {task}\nInterfaces: {api}\nFile {number}:", 48)


def _review(task: str, api: Any, number: int, code: Any) -> Any:
    return _gen(
        f"{_ROLE['reviewer']}\nTask: {task}\nInterfaces: {api}\nFile {number}: {code}\nWhat is wrong:", 16
    )


@program
def coding(task: str) -> list[str]:
    """An architect, eight coders of its interfaces, a reviewer of each (MetaGPT, as in Parrot)."""
    api = _design(task)
    return [_review(task, api, number, _code(task, api, number)) for number in range(FILES)]


@program
async def coding_calls(task: str) -> list[str]:
    """The same, call by call."""
    api = str(await _design(task))

    async def one(number: int) -> str:
        return str(await _review(task, api, number, str(await _code(task, api, number))))

    return await asyncio.gather(*map(one, range(FILES)))


# ---- single calls


@program
def family(prompt: str, question: str) -> str:
    """A call of an application with a long prompt: nothing more could be known of it."""
    text: str = _gen(f"{prompt}\n\nQuestion: {question}\nAnswer:", 16)
    return text


# ---- arrivals


class Arrival(NamedTuple):
    """A program, when it begins, and what is left out of its time."""

    kind: str
    second: float
    arguments: tuple[Any, ...]
    thinking_s: float = 0.0


SCENARIOS: Final[Mapping[str, Mapping[str, float]]] = {
    "chat + map-reduce": {"chat": 0.6, "map_reduce": 0.4},
    "chain + background": {"chain": 0.3, "family": 0.8},
    "four families": {"family": 1.5},
    "coding": {"coding": 0.25},
}
"""Programs a second."""


def starts(client: Client, *, graph: bool) -> Mapping[str, Callable[..., Awaitable[Any]]]:
    """What runs each kind of program; as a graph, where there is one, or call by call."""
    return {
        "chat": chat.using(client).ainvoke,
        "map_reduce": (map_reduce if graph else map_reduce_calls).using(client).ainvoke,
        "chain": (chain if graph else chain_calls).using(client).ainvoke,
        "coding": (coding if graph else coding_calls).using(client).ainvoke,
        "family": family.using(client).ainvoke,
    }


def arrivals(scenario: str, seconds: float) -> list[Arrival]:
    """The programs of a scenario, by their times: the same whenever it is asked for."""
    rng = random.Random(scenario)
    prompts = [nonsense(rng, 700) for _ in range(FAMILIES)]
    rates = SCENARIOS[scenario]
    second, made = 0.0, list[Arrival]()
    while (second := second + rng.expovariate(sum(rates.values()))) < seconds:
        kind = rng.choices(list(rates), list(rates.values()))[0]
        match kind:
            case "chat":
                more = [nonsense(rng, rng.randint(5, 30)) for _ in range(TURNS - 1)]
                made.append(Arrival(kind, second, (nonsense(rng, 40), more), THINKS_S * (TURNS - 1)))
            case "map_reduce":
                made.append(Arrival(kind, second, (_chunks(rng, 30, 70),)))
            case "chain":
                made.append(Arrival(kind, second, (_chunks(rng, 80, 160),)))
            case "coding":
                made.append(Arrival(kind, second, (nonsense(rng, rng.randint(40, 80)),)))
            case _:
                prompt = rng.choices(prompts, WEIGHTS)[0]
                made.append(Arrival(kind, second, (prompt, nonsense(rng, rng.randint(10, 40)))))
    return made


def _chunks(rng: random.Random, least: int, most: int) -> list[str]:
    return [nonsense(rng, rng.randint(least, most)) for _ in range(PARTS)]
