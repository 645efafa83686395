"""`weft bench agreement` in float32, in which nothing may change a token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from agreement import difference, forced, reference_model, switches
from engines.models import random_model

import weft
from weft.runtime.llm.tokenizer import Tokenizer

REFERENCE = Path(weft.__path__[0]) / "apps" / "reference_model" / "model"
CPU = torch.device("cpu")


def test_a_text_is_compared_up_to_its_first_difference() -> None:
    assert difference([(1, 2, 3), (4, 5)], [(1, 2, 3), (4, 5)])["mismatch"] == 0
    found = difference([(1, 2, 3, 4), (4, 5), (6, 7)], [(1, 9, 3, 8), (4, 5), (6, 7, 8)])
    assert found == {"mismatch": 2 / (2 + 2 + 3), "equal_texts": pytest.approx(1 / 3), "compared": 7}


def test_in_float32_no_arm_changes_a_token() -> None:
    model = random_model("tiny-llama", torch.float32, CPU)
    found = switches(model, requests=8, lengths=(20, 50), output=16)
    assert {name: rates["mismatch"] for name, rates in found.items()} == dict.fromkeys(found, 0.0)
    assert found["retraction"]["retractions"] > 0
    assert found["half the pool, and a host tier"]["restored_tokens"] > 0


def test_in_float32_forcing_changes_no_token() -> None:
    model = reference_model(torch.float32, CPU)
    found = forced(model, Tokenizer.from_folder(REFERENCE), requests=2)
    assert {name: rates["mismatch"] for name, rates in found.items()} == dict.fromkeys(found, 0.0)
    assert found["forced tokens"]["forced"] > 0.2
