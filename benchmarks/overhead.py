"""What orchestration costs: the same greedy texts from the engine itself, and through the whole of weft.

Three arms, one model (the reference model unless --model names another), the same prompts, the same number of
tokens:

- `engine`: the LLM engine called in this process, requests submitted together; nothing but the engine.
- `calls`: a program with one `gen`, called from this process once for each prompt, all at once, over gRPC.
- `chain`: a program with four `gen`s in a row; against four dependent rounds on the engine.

Latency is that of one request at a time; throughput that of all at once. Both are given as ratios to the
engine, measured in the same run, arms in turn. Run: ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from weft import Client, gen, program
from weft.frontend.client import embedded
from weft.graph.prompt import Fixed, Message
from weft.graph.sampling import Sampling
from weft.runtime.config import REFERENCE_MODEL, ModelSettings, Settings
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.llm.context import Context
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import load_model
from weft.runtime.llm.requests import Finished, GenerateRequest
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.orchestrator.chat import TemplateRenderer

TOKENS = 32
ROUNDS = 4


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
    """Medians over `repeats`, the arms in turn; seconds, and ratios to the engine."""
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


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=REFERENCE_MODEL, help="a checkpoint's folder")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="requests at once, for throughput")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    settings = Settings(models=[ModelSettings(path=str(options.model))], profile_s=0)
    client = Client(embedded.start(settings))
    engine = Engine(options.model)
    try:
        results = measure(engine, client, options.repeats, options.batch)
    finally:
        engine.close()
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}, {options.model.name}, {options.repeats} repeats")
    print(f"{'':12}{'engine s':>10}{'weft s':>10}{'ratio':>8}")
    for name, row in results.items():
        print(f"{name:12}{row['engine_s']:10.3f}{row['weft_s']:10.3f}{row['ratio']:8.2f}")
    if options.json:
        report = {"machine": machine, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
        options.json.write_text(json.dumps({**report, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
