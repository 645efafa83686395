"""Programs that share workers, each as a graph and call by call, and when they arrive.

Both forms send the same prompts: what is known of a program before it runs is all that differs. Texts have
forced lengths. `scale` multiplies all lengths: 1 is for a model that runs on a CPU, 8 has programs as long as
people's; agents are as long as the simulator's at 16. It multiplies the time of their tools, too, so that
these take as long beside reading and writing at any scale.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from weft import Client, Context, Static, gen, program, tool
from weft.runtime.simulator.workloads import INSTRUCTIONS, WEB

from .nonsense import nonsense

__all__ = ["SCENARIOS", "Arrival", "arrivals", "starts"]

PARTS: Final = 8  # of a map-reduce, and of a chain
TURNS: Final = 3
THINKS_S: Final = 0.4  # a user, between turns
FAMILIES: Final = 4
WEIGHTS: Final = (8, 4, 2, 1)  # of families
FILES: Final = 8
BROWSERS: Final = WEB._replace(most=40)  # more turns than these are not in the reference model's context
PATIENCE_S: Final = 60.0  # for a tool; as all of `BROWSERS` at the simulator's scale

_SIMULATED: Final = 16  # the scale that is the simulator's
_WORD: Final = 2.1  # tokens


@functools.cache
def _role(role: str, scale: int, words: int = 120) -> str:
    return nonsense(random.Random(role), words * scale)


def _gen(prompt: str, tokens: int) -> Any:
    return gen(prompt, max_tokens=tokens, ignore_eos=True)


async def _awaited(text: Awaitable[str]) -> str:
    return str(await text)


# ---- chats


@program
async def chat(question: str, more: list[str], scale: Static[int] = 1) -> str:
    """Turns of a conversation with somebody who thinks between them: it is never known before."""
    context = Context().user(question)
    said = str(await context.gen(max_tokens=24 * scale, ignore_eos=True))
    for follow_up in more:
        await asyncio.sleep(THINKS_S)
        context.user(follow_up)
        said = str(await context.gen(max_tokens=24 * scale, ignore_eos=True))
    return said


# ---- map-reduce


def _part(chunk: str, scale: int) -> Any:
    return _gen(f"Summarize: {chunk}\nSummary:", 16 * scale)


def _whole(parts: Sequence[Any], scale: int) -> Any:
    text = parts[0]
    for part in parts[1:]:
        text = f"{text}\n{part}"
    return _gen(f"Summaries:\n{text}\nTogether:", 24 * scale)


@program
def map_reduce(chunks: list[str], scale: Static[int] = 1) -> str:
    """Summaries of parts, and one of these."""
    whole: str = _whole([_part(chunks[number], scale) for number in range(PARTS)], scale)
    return whole


@program
async def map_reduce_calls(chunks: list[str], scale: Static[int] = 1) -> str:
    """The same, call by call."""
    parts = await asyncio.gather(*(_awaited(_part(chunk, scale)) for chunk in chunks))
    return str(await _whole(parts, scale))


# ---- chains


def _longer(so_far: Any, chunk: str, scale: int) -> Any:
    prompt = f"Summarize what was before and what follows.\nBefore: {so_far}\n{chunk}\nSummary:"
    return _gen(prompt, 16 * scale)


@program
def chain(chunks: list[str], scale: Static[int] = 1) -> str:
    """Each part is summarized with the summary of those before it (Parrot, OSDI'24, section 8.2)."""
    so_far = ""
    for number in range(PARTS):
        so_far = _longer(so_far, chunks[number], scale)
    return so_far


@program
async def chain_calls(chunks: list[str], scale: Static[int] = 1) -> str:
    """The same, call by call."""
    so_far = ""
    for chunk in chunks:
        so_far = str(await _longer(so_far, chunk, scale))
    return so_far


# ---- a team that writes a program


def _design(task: str, scale: int) -> Any:
    return _gen(f"{_role('architect', scale)}\nTask: {task}\nInterfaces:", 96 * scale)


def _code(task: str, api: Any, number: int, scale: int) -> Any:
    prompt = f"{_role('coder', scale)}\nTask: {task}\nInterfaces: {api}\nFile {number}:"
    return _gen(prompt, 48 * scale)


def _review(task: str, api: Any, number: int, code: Any, scale: int) -> Any:
    seen = f"{_role('reviewer', scale)}\nTask: {task}\nInterfaces: {api}\nFile {number}: {code}"
    return _gen(f"{seen}\nWhat is wrong:", 16 * scale)


@program
def coding(task: str, scale: Static[int] = 1) -> list[str]:
    """An architect, eight coders of its interfaces, a reviewer of each (MetaGPT, as in Parrot)."""
    api = _design(task, scale)
    files = range(FILES)
    return [_review(task, api, number, _code(task, api, number, scale), scale) for number in files]


@program
async def coding_calls(task: str, scale: Static[int] = 1) -> list[str]:
    """The same, call by call."""
    api = str(await _design(task, scale))

    async def one(number: int) -> str:
        code = str(await _code(task, api, number, scale))
        return str(await _review(task, api, number, code, scale))

    return await asyncio.gather(*map(one, range(FILES)))


# ---- agents


@dataclass(frozen=True)
class Step:
    """Of an agent: how many tokens it writes, and what it finds then, with which tool, how soon."""

    tokens: int
    tool: str
    seconds: float
    found: str


async def _found(seconds: float, found: str) -> str:
    await asyncio.sleep(seconds)
    return found


@tool
async def web(said: str, seconds: float, found: str) -> str:
    """Find a page."""
    return await _found(seconds, found)


@tool
async def file(said: str, seconds: float, found: str) -> str:
    """Read a file."""
    return await _found(seconds, found)


@tool
async def code(said: str, seconds: float, found: str) -> str:
    """Run a program."""
    return await _found(seconds, found)


TOOLS: Final = {"web": web, "file": file, "code": code}


def _browser(task: str, scale: int) -> Context:
    instructions = round(INSTRUCTIONS / _WORD / _SIMULATED)
    return Context(system=_role("browser", scale, instructions)).user(task)


@program
async def agent(task: str, steps: list[Step], last: int, scale: Static[int] = 1) -> str:
    """An agent that browses: all of them have their instructions in common."""
    context = _browser(task, scale)
    for step in steps:
        said = await context.gen(max_tokens=step.tokens, ignore_eos=True)
        context.user(f"{TOOLS[step.tool](said, step.seconds, step.found)}")
    return str(await context.gen(max_tokens=last, ignore_eos=True))


@program
async def agent_calls(task: str, steps: list[Step], last: int, scale: Static[int] = 1) -> str:
    """The same, call by call."""
    context = _browser(task, scale)
    for step in steps:
        await context.gen(max_tokens=step.tokens, ignore_eos=True)
        context.user(await _found(step.seconds, step.found))
    return str(await context.gen(max_tokens=last, ignore_eos=True))


# ---- single calls


@program
def family(prompt: str, question: str, scale: Static[int] = 1) -> str:
    """A call of an application with a long prompt: nothing more could be known of it."""
    text: str = _gen(f"{prompt}\n\nQuestion: {question}\nAnswer:", 16 * scale)
    return text


# ---- arrivals


class Arrival(NamedTuple):
    """A program, when it begins, and what is left out of its time."""

    kind: str
    second: float
    arguments: tuple[Any, ...]
    asleep_s: float = 0.0  # of users, and of tools


SCENARIOS: Final[Mapping[str, Mapping[str, float]]] = {
    "chat + map-reduce": {"chat": 0.6, "map_reduce": 0.4},
    "chain + background": {"chain": 0.3, "family": 0.8},
    "four families": {"family": 1.5},
    "coding": {"coding": 0.25},
    "agents": {"agent": 1.0},
}
"""Programs a second."""


def starts(client: Client, *, graph: bool) -> Mapping[str, Callable[..., Awaitable[Any]]]:
    """What runs each kind of program; as a graph, where there is one, or call by call."""
    return {
        "chat": chat.using(client).ainvoke,
        "map_reduce": (map_reduce if graph else map_reduce_calls).using(client).ainvoke,
        "chain": (chain if graph else chain_calls).using(client).ainvoke,
        "agent": (agent if graph else agent_calls).using(client).ainvoke,
        "coding": (coding if graph else coding_calls).using(client).ainvoke,
        "family": family.using(client).ainvoke,
    }


def arrivals(scenario: str, seconds: float, scale: int = 1, rate: float = 1.0) -> list[Arrival]:
    """The programs of a scenario, by their times: the same whenever it is asked for.

    `rate` multiplies how many there are in a second.
    """
    rng = random.Random(scenario)
    prompts = [nonsense(rng, 700 * scale) for _ in range(FAMILIES)]
    rates = SCENARIOS[scenario]
    second, made = 0.0, list[Arrival]()

    def words(least: int, most: int) -> str:
        return nonsense(rng, scale * rng.randint(least, most))

    def browses() -> tuple[str, list[Step], int]:
        task, turns = BROWSERS.draw(rng)
        share = scale / _SIMULATED
        lengths = [max(round(turn.tokens * share), 1) for turn in turns]
        calls = [turn.call for turn in turns if turn.call]
        steps = [
            Step(
                tokens,
                call.tool,
                min(call.ms / 1e3, PATIENCE_S) * share,
                nonsense(rng, max(round(call.tokens / _WORD * share), 1)),
            )
            for tokens, call in zip(lengths[:-1], calls, strict=True)
        ]
        return nonsense(rng, round(task / _WORD * share)), steps, lengths[-1]

    while (second := second + rng.expovariate(rate * sum(rates.values()))) < seconds:
        kind = rng.choices(list(rates), list(rates.values()))[0]
        arguments: tuple[Any, ...]
        asleep_s = 0.0
        match kind:
            case "chat":
                asleep_s = THINKS_S * (TURNS - 1)
                more = [words(5, 30) for _ in range(TURNS - 1)]
                arguments = (words(40, 40), more)
            case "map_reduce":
                arguments = ([words(30, 70) for _ in range(PARTS)],)
            case "chain":
                arguments = ([words(80, 160) for _ in range(PARTS)],)
            case "coding":
                arguments = (words(40, 80),)
            case "agent":
                arguments = browses()
                asleep_s = sum(step.seconds for step in arguments[1])
            case _:
                arguments = (rng.choices(prompts, WEIGHTS)[0], words(10, 40))
        made.append(Arrival(kind, second, (*arguments, scale), asleep_s))
    return made
