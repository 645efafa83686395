"""The same greedy texts from the engine itself, and through the whole of weft.

Latency and chain are those of one request at a time, throughput that of all at once; the arms take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from weft import Client, gen, program
from weft.graph.prompt import Fixed, Message
from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.llm.context import Context
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import load_model
from weft.runtime.llm.requests import Finished, GenerateRequest
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.orchestrator.chat import TemplateRenderer

__all__ = ["Engine", "measure"]

TOKENS: Final = 32
ROUNDS: Final = 4


@program
def one(prompt: str) -> str:
    """One text."""
    return gen(prompt, max_tokens=TOKENS)


@program
def chain(prompt: str) -> str:
    """Four texts, each about the one before it."""
    text = gen(prompt, max_tokens=TOKENS)
    for _ in range(ROUNDS - 1):
        text = gen(f"Passage: {text}", max_tokens=TOKENS)
    return text


class Engine:
    """The engine without anything around it, called as the worker calls it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_folder(folder)
        self._engine = LLMEngine(load_model(folder), self.tokenizer)
        template = ChatTemplate.from_folder(folder)
        self._template = TemplateRenderer(template.to_json()) if template else None

    def texts(self, prompts: Sequence[str]) -> list[str]:
        """The texts for all prompts, computed together."""
        requests = [
            GenerateRequest(self._ids(prompt), "", 0, Sampling(max_tokens=TOKENS), None) for prompt in prompts
        ]
        events = run_requests(self._engine, requests, timeout=600)
        return [next(e.text for e in found if isinstance(e, Finished)) for found in events]

    def chain(self, prompt: str) -> str:
        """Four dependent rounds."""
        text = self.texts([prompt])[0]
        for _ in range(ROUNDS - 1):
            text = self.texts([f"Passage: {text}"])[0]
        return text

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()

    def _ids(self, prompt: str) -> tuple[int, ...]:
        context = Context.empty(self.tokenizer)
        if self._template is None:
            return context.append_text(prompt).ids()
        for piece in self._template.render((Message("user", (prompt,)),), add_generation_prompt=True):
            assert isinstance(piece, Fixed)
            context = context.append_text(piece.text, trusted=piece.trusted)
        return context.ids()


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def prompts(count: int, salt: int) -> list[str]:
    """Different prompts of about 120 tokens, so that only the head of a chat is shared."""
    return [f"{salt}-{n}. Passage: " + f"the river of town {n} is long. " * 12 for n in range(count)]


def measure(engine: Engine, client: Client, repeats: int, batch: int) -> dict[str, dict[str, float]]:
    """Medians over `repeats`: seconds, and ratios to the engine."""
    rounds = [one_round(engine, client, prompts(batch, salt)) for salt in range(repeats + 1)]
    return {name: _summary([found[name] for found in rounds[1:]]) for name in rounds[0]}  # the first warms up


def one_round(engine: Engine, client: Client, many: list[str]) -> dict[str, tuple[float, float]]:
    """Seconds on the engine and through weft, of each kind of work. The texts must be equal."""
    local, linked = one.using(client), chain.using(client)
    alone, calls = many[0] + "?", [(prompt,) for prompt in many]
    assert engine.texts([many[0] + "!"]) == [local(many[0] + "!")]
    return {
        "latency": (seconds(lambda: engine.texts([alone])), seconds(lambda: local(alone))),
        "chain": (seconds(lambda: engine.chain(alone)), seconds(lambda: linked(alone))),
        "throughput": (
            seconds(lambda: engine.texts(many)),
            seconds(lambda: local.batch(calls, concurrency=len(calls))),
        ),
    }


def _summary(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    return {
        "engine_s": statistics.median(own for own, _ in pairs),
        "weft_s": statistics.median(through for _, through in pairs),
        "ratio": statistics.median(through / own for own, through in pairs),
    }
