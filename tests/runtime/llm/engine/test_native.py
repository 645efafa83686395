"""An engine computes the same with and without compiled steps."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.graph.sampling import Sampling
from weft.kernels.cpu.library import load as load_library
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.cpu.model import CpuModel
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import Model, load_model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Finished, GenerateRequest

from .loading import load_as


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_library.cache_clear()
    yield
    load_library.cache_clear()


def answers(model: Model) -> list[tuple[int, ...]]:
    """The greedy outputs of prompts that share beginnings; no token ends them."""
    model.config = replace(model.config, eos_ids=frozenset())
    chance = random.Random(5)
    heads = [chance.choices(range(3, 160), k=length) for length in (1, 70, 200)]
    prompts = [tuple(head + chance.choices(range(3, 160), k=chance.randint(1, 40))) for head in heads * 6]
    requests = [GenerateRequest(ids, sampling=Sampling(max_tokens=24)) for ids in prompts]
    with LLMEngine(model, None, EngineOptions(kv_tokens=4096, token_budget=96, verify=True)) as engine:
        events = run_requests(engine, requests, timeout=60)
    return [found[-1].ids for found in events if isinstance(found[-1], Finished)]


def test_greedy_outputs_with_and_without_are_equal(
    family: str, make_checkpoint: Callable[[str], Any]
) -> None:
    folder = make_checkpoint(family).folder
    without = answers(load_as("cpu", folder))
    assert len(without) == 18
    assert len(set(without)) > 9
    assert answers(load_as("native", folder)) == without


def test_a_kv_head_of_very_many_query_heads_is_left_to_torch(
    make_checkpoint: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = make_checkpoint("llama").folder
    config = json.loads((folder / "config.json").read_text())
    library = load_library()
    most = 96 if library is None else library.weft_most_group()
    tensors = load_file(folder / "model.safetensors")
    hidden, dim = config["hidden_size"], 2
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.self_attn"
        tensors[f"{prefix}.q_proj.weight"] = torch.zeros((most + 1) * dim, hidden)
        tensors[f"{prefix}.o_proj.weight"] = torch.zeros(hidden, (most + 1) * dim)
        for name in ("k_proj", "v_proj"):
            tensors[f"{prefix}.{name}.weight"] = torch.zeros(dim, hidden)
    save_file(tensors, tmp_path / "model.safetensors")
    config |= {"num_attention_heads": most + 1, "num_key_value_heads": 1, "head_dim": dim}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(load_model(tmp_path, device="cpu"), CpuModel)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_torch_computes(make_checkpoint: Callable[[str], Any]) -> None:
    folder = make_checkpoint("llama").folder
    model = load_model(folder, device="cpu")
    assert isinstance(model, CpuModel)
    assert answers(model) == answers(load_as("cpu", folder))
