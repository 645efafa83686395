"""The three score methods on the reference model, against log-probabilities computed by transformers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers

from weft.graph.ir import Node, Value
from weft.graph.ops.primitive import Prefill, Score
from weft.graph.ops.user import ScoreMethod
from weft.graph.prompt import Fixed
from weft.graph.values import Json, TextValue
from weft.runtime.config import ModelSettings
from weft.runtime.llm.engine import Entry, LLMEngine
from weft.runtime.llm.requests import Request, ScoreRequest, Sink
from weft.runtime.worker.engines.llm import LlmEngine

from .conftest import MODEL_FOLDER, Link, StartWorker

PROMPT = "<|bos|><|user|>Passage: Hipujas was founded in 1987.\nQuestion: When?<|end|><|assistant|>19"
CHOICES = ("87", "87 or 1988", "1", "not found")


class Reference:
    """Raw log-probabilities of choices after a prompt."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def logprobs(self, prefix: list[int], option: list[int]) -> list[float]:
        with torch.inference_mode():
            logits = self.model(torch.tensor([prefix + option])).logits[0]
        rows = logits.log_softmax(-1)[len(prefix) - 1 : -1]
        return [float(row[token]) for row, token in zip(rows, option, strict=True)]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(MODEL_FOLDER)


@pytest.fixture
async def llm(start_worker: StartWorker, model_settings: ModelSettings) -> Link:
    return await start_worker(LlmEngine(model_settings, profile_s=0))


async def scores_of(
    llm: Link,
    method: ScoreMethod,
    prompt: str = PROMPT,
    choices: tuple[str, ...] = CHOICES,
    run: str = "r",
) -> tuple[str, list[float]]:
    await llm.run(
        Node(1, Prefill("reference", (Fixed(prompt, trusted=True),))),
        Node(2, Score("reference", choices, method), {"kv": Value(1)}),
        run=run,
    )
    choice, scores = await llm.results(2, run=run)
    assert isinstance(choice, TextValue)
    assert isinstance(scores, Json)
    return choice.text, scores.value


def means(reference: Reference, prefix: list[int], options: list[list[int]]) -> list[float]:
    rows = [reference.logprobs(prefix, option) for option in options]
    return [sum(row) / len(row) for row in rows]


def split(
    reference: Reference, prompt: str, choices: Sequence[str] = CHOICES
) -> tuple[list[int], list[list[int]]]:
    """The ids that all of prompt + choice share with the prompt, and the rest of each."""
    wholes = [reference.ids(prompt + choice) for choice in choices]
    alone = reference.ids(prompt)
    shared = 0
    most = min(len(alone), *(len(whole) - 1 for whole in wholes))
    while shared < most and all(whole[shared] == alone[shared] for whole in wholes):
        shared += 1
    return alone[:shared], [whole[shared:] for whole in wholes]


async def test_mean(llm: Link, reference: Reference) -> None:
    expected = means(reference, *split(reference, PROMPT))
    choice, scores = await scores_of(llm, "mean")
    assert scores == pytest.approx(expected, abs=1e-3)
    assert choice == CHOICES[expected.index(max(expected))]


async def test_unconditional(llm: Link, reference: Reference) -> None:
    prefix, options = split(reference, PROMPT)
    given = means(reference, prefix, options)
    alone = means(reference, reference.ids("<|bos|>"), options)
    expected = [a - b for a, b in zip(given, alone, strict=True)]
    choice, scores = await scores_of(llm, "unconditional")
    assert scores == pytest.approx(expected, abs=1e-3)
    assert choice == CHOICES[expected.index(max(expected))]


async def test_greedy(llm: Link, reference: Reference) -> None:
    prefix, options = split(reference, PROMPT)
    rows = [reference.logprobs(prefix, option) for option in options]
    choice, scores = await scores_of(llm, "greedy")
    assert choice == CHOICES[survivor(rows)]
    assert scores == pytest.approx(means(reference, prefix, options), abs=1e-3)


def survivor(rows: Sequence[Sequence[float]]) -> int:
    """Which option is left when at each token those fall out that are less likely there than the best."""
    width = max(map(len, rows))
    padded = [[*row, *[sum(row) / len(row)] * (width - len(row))] for row in rows]
    remaining = list(range(len(rows)))
    for column in range(width):
        top = max(padded[index][column] for index in remaining)
        remaining = [index for index in remaining if padded[index][column] > top - 1e-4]
    return remaining[0]


async def test_choices_that_join_the_last_word_of_the_prompt(llm: Link, reference: Reference) -> None:
    """The prompt ends within what the tokenizer makes one token with a choice."""
    prompt = PROMPT.removesuffix("19") + "no"
    prefix, options = split(reference, prompt)
    assert len(prefix) < len(reference.ids(prompt))
    _, scores = await scores_of(llm, "mean", prompt)
    assert scores == pytest.approx(means(reference, prefix, options), abs=1e-3)


_WORDS = (
    "the",
    " river",
    " town",
    " 19",
    "87",
    "88",
    " or",
    " not",
    " found",
    "ed",
    " in",
    ".",
    "+",
    " Hi",
    "pujas",
)


def cases(count: int) -> list[tuple[str, tuple[str, ...]]]:
    """Prompts that end anywhere, also within a word, with choices of which some begin others."""
    chance = random.Random(0)
    found = []
    for _ in range(count):
        prompt = PROMPT.removesuffix("19") + "".join(chance.choices(_WORDS, k=chance.randint(1, 6)))
        prompt = prompt[: len(prompt) - chance.randint(0, 2)]
        choices = [
            "".join(chance.choices(_WORDS, k=chance.randint(1, 4))) for _ in range(chance.randint(2, 4))
        ]
        choices.append(choices[0] + chance.choice(_WORDS))
        found.append((prompt, tuple(dict.fromkeys(choices))))
    return found


@pytest.mark.parametrize("method", ["mean", "greedy", "unconditional"])
async def test_fifty_cases(
    llm: Link, reference: Reference, method: ScoreMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    admitted: list[Request] = []
    admit = LLMEngine.admit

    def spy(engine: LLMEngine, request: Request, sink: Sink) -> Entry:
        admitted.append(request)
        return admit(engine, request, sink)

    monkeypatch.setattr(LLMEngine, "admit", spy)
    for number, (prompt, choices) in enumerate(cases(50)):
        prefix, options = split(reference, prompt, choices)
        rows = [reference.logprobs(prefix, option) for option in options]
        expected = [sum(row) / len(row) for row in rows]
        best = survivor(rows) if method == "greedy" else None
        if method == "unconditional":
            alone = means(reference, reference.ids("<|bos|>"), options)
            expected = [given - without for given, without in zip(expected, alone, strict=True)]
        choice, scores = await scores_of(llm, method, prompt, choices, run=str(number))
        assert scores == pytest.approx(expected, abs=2e-3)
        assert choice == choices[expected.index(max(expected)) if best is None else best]
    scored = [request for request in admitted if isinstance(request, ScoreRequest)]
    assert len(scored) == (100 if method == "unconditional" else 50)  # all choices of a case at once
