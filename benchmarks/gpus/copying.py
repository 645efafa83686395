"""What drafting from the context saves on a GPU, by how much of a text stands in its prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.options import EngineOptions

from .clocks import serve
from .prompts import Ids, prompt_of
from .timing import decode_speed

__all__ = ["SHARES", "copying", "prompt_with"]

SHARES: Final = (0.0, 0.2, 0.5, 0.8)
"""How much of a text stands in its prompt."""
_BATCHES: Final = (1, 8, 32, 64)
_PROMPT: Final = 1500
_OUTPUT: Final = 320
_RUN: Final = 16  # tokens that are copied on end
_PROFILE_S: Final = 1.5


def copying(model: GpuModel) -> dict[str, Any]:
    """Tokens a second while all write, with and without `prompt_lookup`, by a `counting_model`.

    Texts are copied from their prompts by runs of 16 tokens, which stand there in another order, with other
    tokens between them. What else a text consists of stands nowhere. Keys: the share, then the batch.
    """
    report: dict[str, Any] = {}
    slots = max(_BATCHES) * (_PROMPT + _OUTPUT) + 1024
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(
                LLMEngine(
                    model,
                    None,
                    EngineOptions(
                        kv_tokens=slots, host_kv_tokens=0, max_running=256, prompt_lookup=name == "lookup"
                    ),
                )
            )
            for name in ("plain", "lookup")
        }
        for engine in engines.values():
            engine.measure_profile(_PROFILE_S)
        _measure(engines, max(_BATCHES), SHARES[-1], model.config.vocab_size)  # compiles what this needs
        for share in SHARES:
            report[str(share)] = {
                batch: _measure(engines, batch, share, model.config.vocab_size) for batch in _BATCHES
            }
            print(share, report[str(share)], flush=True)
    return report


def _measure(engines: dict[str, LLMEngine], batch: int, share: float, vocab: int) -> dict[str, float]:
    row: dict[str, float] = {}
    chance = random.Random(f"{batch}, {share}")
    prompts = [prompt_with(share, vocab, chance) for _ in range(batch)]
    for name, engine in engines.items():
        serve(engine, prompts, 1)  # so that all begin to write together
        before = engine.stats().steps
        row[name], _ = decode_speed(serve(engine, prompts, _OUTPUT))
        row[f"{name}_steps"] = engine.stats().steps - before
    row["times"] = row["lookup"] / row["plain"]
    return row


def prompt_with(share: float, vocab: int, chance: random.Random) -> Ids:
    """A prompt in which a share of the text that a counting model writes behind it stands already."""
    first = chance.randrange(1, vocab // 2 - _OUTPUT)
    text = range(first + 1, first + 1 + _OUTPUT)
    runs: list[Sequence[int]] = [text[at : at + _RUN] for at in range(0, _OUTPUT, _RUN)]
    copied = chance.sample(runs, round(share * len(runs)))
    made_up = (_PROMPT - 1 - sum(map(len, copied))) // (len(copied) + 1)
    pieces = [prompt_of(made_up, vocab // 2, chance, above=vocab // 2) for _ in range(len(copied) + 1)]
    found = [*pieces[0]]
    for run, piece in zip(copied, pieces[1:], strict=True):
        found += [*run, *piece]
    return (*found, first)
