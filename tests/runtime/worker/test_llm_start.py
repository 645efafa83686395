"""How a worker's model starts, and what the worker then says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.kernels.cpu.library import load as load_library
from weft.runtime.config import ModelSettings
from weft.runtime.llm.chat import ChatMessage, ChatTemplate
from weft.runtime.llm.pieces import TextPiece
from weft.runtime.retrieval.lance import LanceTables
from weft.runtime.worker.engines.base import StartError
from weft.runtime.worker.engines.embed import EmbedEngine
from weft.runtime.worker.engines.index import IndexEngine
from weft.runtime.worker.engines.llm import LlmEngine
from weft.runtime.worker.engines.llm_loading import load

from .conftest import StartWorker


async def test_the_worker_says_what_its_model_is(
    start_worker: StartWorker, model_settings: ModelSettings
) -> None:
    llm = await start_worker(LlmEngine(model_settings, profile_s=0))
    info = llm.info.engines[0]
    assert (info.kind, info.model, info.capacity) == ("llm", "reference", 64)
    assert (info.llm.context_length, info.llm.kv_slots) == (4096, 4096)
    assert "llama" in info.detail
    template = ChatTemplate.from_json(info.llm.chat_template)
    written = template.render([ChatMessage("user", ("hi",))], False)[-1]
    assert isinstance(written, TextPiece)
    assert written.text.endswith("<|end|>")


async def test_a_pool_that_is_too_small_to_measure_is_one_clear_line(model_settings: ModelSettings) -> None:
    engine = LlmEngine(model_settings.model_copy(update={"kv_tokens": 4}), profile_s=0.05)
    with pytest.raises(StartError, match=r"^model 'reference': 4 free KV slots are too few"):
        await engine.start()


async def test_a_model_on_the_cores_shares_them_with_retrieval(
    start_worker: StartWorker, model_settings: ModelSettings, tmp_path: Path
) -> None:
    engines = (
        EmbedEngine(None),
        IndexEngine(LanceTables(tmp_path), "hash"),
        LlmEngine(model_settings, profile_s=0),
    )
    worker = await start_worker(*engines)
    assert len({engine.processor for engine in worker.info.engines}) == 1
    assert worker.info.engines[0].processor.endswith("/cpu")


async def test_a_host_tier_larger_than_the_machine_is_one_clear_line(model_settings: ModelSettings) -> None:
    engine = LlmEngine(model_settings.model_copy(update={"host_kv_tokens": 10**12}), profile_s=0)
    with pytest.raises(StartError, match=r"^model 'reference': host_kv_tokens = 1000000000000 takes \d+ MiB"):
        await engine.start()


async def test_compiled_steps_can_be_switched_off(model_settings: ModelSettings) -> None:
    kinds: dict[bool, str] = {}
    for native in (True, False):
        loaded = load(model_settings.model_copy(update={"native": native}), 0)
        loaded.engine.close()
        kinds[native] = loaded.kv_layout
    assert (kinds[True] != kinds[False]) == (load_library() is not None)


async def test_the_profile_is_measured(start_worker: StartWorker, model_settings: ModelSettings) -> None:
    llm = await start_worker(LlmEngine(model_settings, profile_s=0.05))
    profile = llm.info.engines[0].llm.profile
    assert all(point.milliseconds > 0 for point in profile.prefill)
    assert all(point.milliseconds > 0 for point in profile.decode)
    assert profile.prefill
    assert profile.decode
    assert profile.efficient_batch >= 1
