"""weft in front of another server: programs give what they give on the model itself."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest

from weft import Context, ProgramError, Static, gen, map, program, rerank, search, select
from weft.apps.instructions import ANSWER, EXPAND
from weft.apps.rag.program import answer as rag
from weft.apps.rag_advanced.program import answer as rag_advanced
from weft.apps.react.program import agent as react
from weft.apps.reference_model.corpus import prepare
from weft.apps.tree_of_thought.program import solve as tree_of_thought
from weft.graph.passes import OPTIONAL
from weft.runtime.config import REFERENCE_MODEL

from .conftest import Server, serving, weft

QUESTION = "Where is Sahus' main office?"
BEGINNING = "Hipujas is run from its main"
PROBLEM = "How many more people live in Jezusti than in Hapo?"


@program
def expanded(question: str) -> list[str]:
    """A typed value, item by item, and a branch for each."""
    queries = gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=96)
    return map(lambda query: search("handbook", query, k=1)[0].text, queries)


@program
def talked(question: str) -> list[str]:
    """Turns, each of which goes on from what the model has written."""
    talk = Context(system=ANSWER)
    said = (question, "And who leads it?", "Say it again.")
    return [talk.user(text).gen(max_tokens=24) for text in said]


@program
def formed(question: str) -> dict[str, Any]:
    """Every form that a text can be held to."""
    return {
        "number": gen(f"Question: {question}", type=int, max_tokens=16),
        "word": gen(f"Question: {question}", type=Literal["yes", "no"], max_tokens=16),
        "regex": gen(f"Question: {question}", regex="[A-Z][a-z]{3,8}, [0-9]{4}", max_tokens=24),
        "choice": gen(f"Question: {question}", choices=["Fiba", "Hujudru", "Gidre"], max_tokens=16),
    }


@program
def drawn(question: str) -> list[str]:
    """Samples."""
    return gen(f"Question: {question}", n=3, temperature=1.5, top_k=20, top_p=0.9, seed=5, max_tokens=20)


@program
def stopped(beginning: str) -> str:
    """A text that a stop string ends within a word."""
    return gen(beginning, raw=True, stop=["ffic", "zzz"], max_tokens=40)


@program
def judged(question: str, method: Static[Literal["mean", "greedy", "unconditional"]]) -> str:
    """One of several choices."""
    return select(f"Question: {question}", ["Hujudru [1]", "Fiba", "not found"], method=method)


@program
def ranked(question: str) -> list[str]:
    """Passages, rated by the model."""
    best = rerank(question, search("handbook", question, k=4), k=2)
    return [best[0].text, best[1].text]


PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "expanded": lambda client: expanded.using(client)(QUESTION),
    "talked": lambda client: talked.using(client)(QUESTION),
    "formed": lambda client: formed.using(client)(QUESTION),
    "drawn": lambda client: drawn.using(client)(QUESTION),
    "stopped": lambda client: stopped.using(client)(BEGINNING),
    "mean": lambda client: judged.using(client)(QUESTION, "mean"),
    "greedy": lambda client: judged.using(client)(QUESTION, "greedy"),
    "unconditional": lambda client: judged.using(client)(QUESTION, "unconditional"),
    "ranked": lambda client: ranked.using(client)(QUESTION),
    "rag": lambda client: rag.using(client)(QUESTION),
    "streamed": lambda client: "".join(rag.using(client).stream(QUESTION)),
    "rag_advanced": lambda client: rag_advanced.using(client)(QUESTION),
    "react": lambda client: react.using(client)(PROBLEM),
    "tree_of_thought": lambda client: tree_of_thought.using(client)(PROBLEM, depth=2, seed=4),
}


def config_of(folder: Path, http: str | None, **more: Any) -> Path:
    """A configuration whose model another server runs."""
    path = folder / "weft.toml"
    fields = {"name": "fronted", "path": str(REFERENCE_MODEL), "url": f"http://{http}/v1", **more}
    table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
    path.write_text(f"[[models]]\n{table}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def front(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model is that of the other server."""
    folder = tmp_path_factory.mktemp("front")
    config = config_of(folder, server.http, served_as="reference")
    with serving(folder, "--config", str(config), "--http", "127.0.0.1:0") as started:
        prepare(started.client)
        yield started


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_what_it_gives_on_the_model_itself(server: Server, front: Server, name: str) -> None:
    run = PROGRAMS[name]
    expected = run(server.client)
    assert expected
    assert run(front.client) == expected


def test_it_does_without_the_passes_too(front: Server, server: Server, tmp_path: Path) -> None:
    config = config_of(tmp_path, server.http, served_as="reference")
    config.write_text(f"passes_off = {json.dumps(OPTIONAL)}\n{config.read_text()}", encoding="utf-8")
    with serving(tmp_path, "--config", str(config)) as started:
        prepare(started.client)
        for name in ("expanded", "rag_advanced"):
            assert PROGRAMS[name](started.client) == PROGRAMS[name](front.client)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Question: ", "logprobs": 2},
        {"prompt": "Question: ", "logprobs": 0, "echo": True, "return_token_ids": True},
        {"prompt": "Question: ", "logprobs": 1, "echo": True, "return_tokens_as_token_ids": True},
        {"prompt": [5, 9, 33, 12], "echo": True, "structured_outputs": {"regex": "[a-z]{4}"}},
        {"prompt": [5, 9, 33, 12], "stream": True, "return_token_ids": True},
    ],
)
def test_its_door_says_what_the_other_says(server: Server, front: Server, fields: dict[str, Any]) -> None:
    told = []
    for http, model in ((server.http, "reference"), (front.http, "fronted")):
        body = {"model": model, "max_tokens": 8, "temperature": 0, **fields}
        response = httpx2.post(f"http://{http}/v1/completions", json=body, timeout=60)
        assert response.status_code == 200, response.text
        lines = response.text.removesuffix("data: [DONE]\n\n").split("data: ")
        choices = [json.loads(line)["choices"][0] for line in lines if line]
        told.append({**choices[-1], "text": "".join(choice["text"] for choice in choices)})
    assert told[0]["text"]
    assert _rounded(told[0]) == told[1]


def _rounded(value: Any) -> Any:
    """What is computed in another batch differs in its last digits."""
    match value:
        case float():
            return pytest.approx(value, abs=1e-3)
        case dict():
            return {name: _rounded(inner) for name, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
        case _:
            return value


def test_tasks_fail_while_the_server_is_away_and_go_on_when_it_is_back(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        http = f"127.0.0.1:{probe.getsockname()[1]}"
    for name in ("back", "front"):
        (tmp_path / name).mkdir()
    config = config_of(tmp_path, http, served_as="reference", wait_s=60, key="sk-secret")
    keyed = ("--http", http, "--api-key", "sk-secret")
    with (
        serving(tmp_path / "back", *keyed) as back,
        serving(tmp_path / "front", "--config", str(config)) as front,
    ):
        expected = stopped.using(front.client)(BEGINNING)
        assert expected
        info = front.client.describe()
        shown = [Path(f"/proc/{worker.pid}/cmdline").read_bytes() for worker in info.workers]
        assert b"sk-secret" not in b"".join([str(info).encode(), *shown])
        back.process.send_signal(signal.SIGTERM)
        back.process.wait(20)
        with pytest.raises(ProgramError, match=f"the server at http://{http}/v1 was lost"):
            stopped.using(front.client)(BEGINNING)
        with serving(tmp_path / "back", *keyed):
            assert stopped.using(front.client)(BEGINNING) == expected


def test_a_server_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    config = config_of(tmp_path, "127.0.0.1:9", wait_s=0, key="sk-secret")
    refused = weft("serve", "--config", str(config), "--listen", "127.0.0.1:0", "--data", str(tmp_path))
    assert refused.returncode != 0
    assert "model 'fronted': no server answers at http://127.0.0.1:9/v1 within 0 s" in refused.stderr
    assert "secret" not in refused.stderr
