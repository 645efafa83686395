"""Starting an LLM engine from a checkpoint, and describing it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from weft.proto import worker_pb2
from weft.runtime.config import ModelSettings
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.errors import ModelError, ParallelError
from weft.runtime.llm.hub import resolve_folder
from weft.runtime.llm.kv_layout import kv_layout
from weft.runtime.llm.model import Model, load_model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.profile import Profile
from weft.runtime.llm.tokenizer import Tokenizer, TokenizerError

from ..processor import processor
from .base import StartError

__all__ = ["LoadedModel", "describe", "load"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A running LLM engine and the tokenizer of its model."""

    model: Model
    engine: LLMEngine
    tokenizer: Tokenizer
    chat: ChatTemplate | None
    profile: Profile | None  # None: not measured
    kv_layout: str = ""  # by which engines know that they can exchange KV; empty: they cannot


def load(settings: ModelSettings, profile_s: float) -> LoadedModel:
    """Load model and tokenizer, start the engine and measure it; blocks. Raises StartError with one line."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    options = EngineOptions(
        kv_tokens=settings.kv_tokens,
        host_kv_tokens=settings.host_kv_tokens,
        token_budget=settings.token_budget,
        max_running=settings.max_running,
        prompt_lookup=settings.prompt_lookup,
    )
    try:
        folder = resolve_folder(settings.path)
        tokenizer = Tokenizer.from_folder(folder)
        chat = ChatTemplate.from_folder(folder)
        model = load_model(
            folder,
            dtype=settings.dtype,
            device=settings.device,
            native=settings.native,
            tensor_parallel=settings.tensor_parallel,
            code=settings.code,
            quantization=settings.quantization,
        )
        try:
            engine = LLMEngine(model, tokenizer, options)
            profile = engine.measure_profile(profile_s) if profile_s else None
        except BaseException:
            model.close()
            raise
    except (MemoryError, ModelError, ParallelError, TokenizerError, ValueError) as problem:
        raise StartError(f"model {settings.name!r}: {problem}") from problem
    except torch.OutOfMemoryError as problem:
        remedy = "lower kv_tokens, or choose a smaller dtype or another device"
        raise StartError(f"model {settings.name!r} does not fit the device's memory; {remedy}") from problem
    layout = kv_layout(folder, model) if model.ranks == 1 else ""
    return LoadedModel(model, engine, tokenizer, chat, profile, layout)


def describe(settings: ModelSettings, loaded: LoadedModel) -> worker_pb2.EngineInfo:
    """What an orchestrator and people need to know of the model."""
    info = loaded.engine.info
    more = info.ranks - 1
    return worker_pb2.EngineInfo(
        kind="llm",
        model=settings.name,
        detail=f"{info.family}, {loaded.model.numbers} on {info.device}"
        + (f" and {more} more" if more else ""),
        llm=worker_pb2.LlmInfo(
            context_length=info.context_length,
            tokenizer=loaded.tokenizer.fingerprint,
            chat_template=loaded.chat.to_json() if loaded.chat else "",
            control_tokens=sorted(loaded.tokenizer.control_tokens),
            kv_slots=info.total_slots,
            kv_layout=loaded.kv_layout,
            kv_token_bytes=info.kv_bytes_per_token * info.ranks,
            shares_prefixes=info.shares_prefixes,
            profile=_encode_profile(loaded.profile) if loaded.profile else None,
        ),
        capacity=info.max_running,
        processor=processor(info.device),
    )


def _encode_profile(profile: Profile) -> worker_pb2.Profile:
    return worker_pb2.Profile(
        prefill=[
            worker_pb2.PrefillPoint(cached=point.cached, computed=point.new, milliseconds=point.ms)
            for point in profile.prefill
        ],
        decode=[
            worker_pb2.DecodePoint(batch=point.batch, context=point.context, milliseconds=point.ms)
            for point in profile.decode
        ],
        efficient_batch=profile.efficient_batch,
    )
