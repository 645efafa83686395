"""On a GPU: CUDA graphs, half precision, and code that a graph cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.hosted.capture import waits_for_device
from weft.runtime.llm.hosted.model import HostedDeviceModel
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Finished, GenerateRequest

from .loading import load_as

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU, and graphs are CUDA's"
)


def outputs(model: HostedDeviceModel, **options: bool) -> list[tuple[int, ...]]:
    requests = [
        GenerateRequest(tuple(range(3 + index, 40 + 3 * index)), sampling=Sampling(max_tokens=24))
        for index in range(12)
    ]
    settings = EngineOptions(kv_tokens=2048, max_running=16, verify=True, **options)
    with LLMEngine(model, None, settings) as engine:
        answers = [events[-1] for events in run_requests(engine, requests, timeout=120)]
    return [last.ids for last in answers if isinstance(last, Finished)]


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "phi3", "olmo2", "deepseek_v3"])
def test_graphs_and_overlap_change_no_text(name: str, make_checkpoint: Callable[..., Any]) -> None:
    model = load_as("tables", make_checkpoint(name).folder)
    assert isinstance(model, HostedDeviceModel)
    plain = outputs(model, cuda_graphs=False, overlap=False)
    assert len(plain) == 12
    assert outputs(model) == plain
    if name != "deepseek_v3":  # which sorts tokens by their experts, how, is the affair of its code
        assert model.capturable


def test_code_that_waits_is_found(
    make_checkpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_as("tables", make_checkpoint("gpt2").folder)
    assert isinstance(model, HostedDeviceModel)
    assert not waits_for_device(model)
    run = model.code.run

    def waiting(*args: Any) -> torch.Tensor:
        logits = run(*args)
        return logits if logits.max().item() < 1e9 else -logits

    monkeypatch.setattr(model.code, "run", waiting)
    assert waits_for_device(model)
