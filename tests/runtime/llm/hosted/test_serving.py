"""A worker serves such a model like any other, with the tokenizer and the chat template of its folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weft
from weft.graph.sampling import Sampling
from weft.runtime.config import ModelSettings
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.requests import Finished, GenerateRequest
from weft.runtime.worker.engines.base import StartError
from weft.runtime.worker.engines.llm_loading import describe, load

from .loading import DEVICE

REFERENCE = Path(weft.__path__[0]) / "apps" / "reference_model" / "model"
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture
def settings(make_checkpoint: Callable[..., Any], tmp_path: Path) -> ModelSettings:
    folder = shutil.copytree(make_checkpoint("gpt_neox", vocab_size=4096).folder, tmp_path / "neox")
    copied = [shutil.copy(REFERENCE / name, folder) for name in _TEXT_FILES if (REFERENCE / name).is_file()]
    assert copied
    return ModelSettings(path=str(folder), device=DEVICE, dtype="float32", kv_tokens=512, max_running=4)


def test_a_worker_says_whose_code_it_is(settings: ModelSettings) -> None:
    loaded = load(settings, profile_s=0.1)
    with loaded.engine:
        info = describe(settings, loaded)
        assert info.detail.startswith(f"gpt_neox through transformers, float32 on {DEVICE}")
        assert (info.model, info.llm.context_length, info.llm.kv_slots) == ("neox", 2048, 512)
        assert info.llm.profile.decode
        assert loaded.chat is not None
        assert loaded.kv_layout
        prompt = tuple(loaded.tokenizer.encode("A question:", bos=True))
        request = GenerateRequest(prompt, sampling=Sampling(max_tokens=5))
        ((*_, last),) = run_requests(loaded.engine, [request], timeout=60)
    assert isinstance(last, Finished)
    assert last.text == loaded.tokenizer.decode_continuation(list(last.ids))


def test_a_refusal_is_one_line_of_the_worker(settings: ModelSettings) -> None:
    with pytest.raises(
        StartError, match=r"model 'neox': .*GPTNeoXForCausalLM is none of weft's own"
    ) as error:
        load(settings.model_copy(update={"code": "weft"}), profile_s=0)
    assert "\n" not in str(error.value)
