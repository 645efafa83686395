"""The optimizer on real processes: what runs at the same time, and what is computed once."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from weft import Context, gen, map, program, search, tool
from weft.apps.reference_model.corpus import questions
from weft.frontend.client.run import Run

from .conftest import Server

EXPAND = "Write three short search queries for the question. Reply with a JSON list of three strings."
AGENT = (
    "You are an agent that answers a question step by step. Tools: search looks up facts, calculator "
    "computes an expression, finish gives the final answer. Reply with one JSON object with the keys tool "
    "and input."
)
WAIT_S = 30.0
_second_step = threading.Event()


@tool
def slow(word: str) -> str:
    """Ends only once the other branch has taken its second step."""
    return word if _second_step.wait(WAIT_S) else "the other branch never went on"


@tool
def fast(word: str) -> str:
    """The first step of the other branch."""
    return word


@tool
def successor(word: str) -> str:
    """Its second step."""
    _second_step.set()
    return word


@program
async def branches() -> str:
    """Two branches; one of them has two steps."""
    first = slow("slow")
    second = successor(fast("fast"))
    return f"{await first} {await second}"


@program
async def two_agents(one: str, other: str) -> list[str]:
    """Two conversations with the same instructions."""
    texts = [
        Context(system=AGENT).user(f"Question: {question}").gen(max_tokens=48) for question in (one, other)
    ]
    return [await text for text in texts]


@program
def expanded(question: str) -> list[str]:
    """The queries that the model writes."""
    return gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=64)


@program
def first_passage(query: str) -> str:
    """The best passage for one query."""
    return search("handbook", query, k=2)[0].text


@program
def searched(question: str) -> list[str]:
    """A search for each query."""
    queries = gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=64, name="expand")
    return map(lambda query: search("handbook", query, k=2)[0].text, queries, concurrency=2)


def spans(run: Run[Any]) -> list[dict[str, Any]]:
    """The primitives of a run in the order of starting."""
    trace = run.trace()
    events = (json.loads(trace) if isinstance(trace, str) else trace)["traceEvents"]
    return sorted((e for e in events if e.get("cat") == "primitive"), key=lambda event: event["ts"])


@pytest.fixture
def question() -> str:
    return questions()[0].text


def test_a_fast_branch_goes_on_while_a_slow_one_still_runs(server: Server) -> None:
    _second_step.clear()
    assert branches.using(server.client).invoke() == "slow fast"


def test_agents_with_the_same_instructions_read_them_once(server: Server, question: str) -> None:
    run = two_agents.using(server.client).submit(question, questions()[1].text)
    assert len(run.result()) == 2
    decodes = [event["args"] for event in spans(run) if " decode" in event["name"]]
    assert len(decodes) == 2
    assert max(args.get("cached_tokens", 0) for args in decodes) > 40  # the instructions have about 50


def test_a_bounded_map_over_a_list_that_is_written_meanwhile_gives_what_a_plain_one_does(
    server: Server, question: str
) -> None:
    queries = expanded.using(server.client).invoke(question)
    assert len(queries) == 3
    one_by_one = [first_passage.using(server.client).invoke(query) for query in queries]
    assert searched.using(server.client).invoke(question) == one_by_one
