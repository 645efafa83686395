"""Random weights of known shapes that can be served: with the reference model's tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import torch
from engines.models import write_random

from weft.runtime.config import REFERENCE_MODEL
from weft.runtime.llm.tokenizer import Tokenizer

__all__ = ["VOCABULARY", "written"]

VOCABULARY: Final = "the reference model's vocabulary"
_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def written(name: str, folder: Path) -> Path:
    """Write a checkpoint of the shape in bfloat16, with a tokenizer and a chat template, unless `folder` has
    it from before; its folder.

    The vocabulary is the tokenizer's, so that whatever the model draws is a text.
    """
    made = folder / name
    if (made / _FILES[-1]).exists():  # which is written last
        return made
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocabulary = Tokenizer.from_folder(REFERENCE_MODEL).vocab_size
    write_random(name, made, dtype=torch.bfloat16, device=device, vocabulary=vocabulary)
    for file in _FILES:
        shutil.copy(REFERENCE_MODEL / file, made / file)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the server's, which is another process
    return made
