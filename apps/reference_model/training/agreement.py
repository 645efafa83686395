"""Whether weft's engine and transformers say the same, to the token, on prompts of the evaluation.

Both read the same checkpoint in float32 and decode greedily; a difference is a bug in one of them, or two
scores so near to each other that the order of sums decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import load_model
from weft.runtime.llm.requests import Finished, GenerateRequest

from .encoder import END, PAD

__all__ = ["differences"]

_MOST: Final = 96
"""Tokens of a reply; the longest right one has about 60."""


def differences(folder: Path, prompts: Sequence[Sequence[int]]) -> list[int]:
    """The indices of the prompts on which the two differ. Prompts are token ids; both run on the CPU."""
    pairs = zip(_weft(folder, prompts), _transformers(folder, prompts), strict=True)
    return [index for index, (ours, theirs) in enumerate(pairs) if ours != theirs]


def _weft(folder: Path, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Without the end, all prompts at once: batched, and with their common beginnings shared."""
    requests = [GenerateRequest(tuple(prompt), sampling=Sampling(max_tokens=_MOST)) for prompt in prompts]
    with LLMEngine(load_model(folder, dtype="float32", device="cpu")) as engine:
        events = run_requests(engine, requests)
    found = [event for each in events for event in each if isinstance(event, Finished)]
    return [[token for token in finished.ids if token != END] for finished in found]


def _transformers(folder: Path, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Without the end, one prompt after the other."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    replies = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([list(prompt)])
            mask = torch.ones_like(ids)
            output = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=_MOST,
                do_sample=False,
                eos_token_id=END,
                pad_token_id=PAD,
            )
            replies.append([token for token in output[0, len(prompt) :].tolist() if token != END])
    return replies
