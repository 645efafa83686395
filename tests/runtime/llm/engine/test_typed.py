"""Typed outputs of a model that writes noise: a checkpoint with random weights and a real tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
import transformers
from pydantic import BaseModel

import weft
from weft.graph.sampling import JsonSchema, Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import load_model
from weft.runtime.llm.requests import Finished, GenerateRequest
from weft.runtime.llm.tokenizer import Tokenizer

REFERENCE = Path(weft.__path__[0]) / "apps" / "reference_model" / "model"


class Address(BaseModel):
    street: str
    number: int
    kind: Literal["home", "work"]


class Person(BaseModel):
    name: str
    born: int | None
    addresses: list[Address]
    scores: dict[str, float]
    active: bool = True


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLMEngine]:
    tokenizer = Tokenizer.from_folder(REFERENCE)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    folder = tmp_path_factory.mktemp("noise")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    with LLMEngine(load_model(folder), tokenizer) as started:
        yield started


@pytest.mark.parametrize(("temperature", "max_tokens"), [(1.0, 60), (1.0, 200), (0.0, 60)])
def test_a_hundred_typed_outputs_of_noise_all_validate(
    engine: LLMEngine, temperature: float, max_tokens: int
) -> None:
    constraint = JsonSchema(json.dumps(Person.model_json_schema()))
    requests = [
        GenerateRequest(
            tuple(range(10 + seed, 40 + seed)),
            sampling=Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed),
            constraint=constraint,
        )
        for seed in range(100)
    ]
    events = run_requests(engine, requests, timeout=120)
    texts = [event.text for found in events for event in found if isinstance(event, Finished)]
    assert len(texts) == 100
    assert len({Person.model_validate_json(text).model_dump_json() for text in texts}) > 1
