"""What drafting from the context (prompt lookup) saves, on tasks that copy from it and tasks that do not.

Held-out cases of the reference model's evaluation, by task, greedy, in float32, on a GPU if there is one: the
engine with and without `prompt_lookup`, one case after the other and sixteen at once; transformers'
`generate` with and without its own (`prompt_lookup_num_tokens`), one after the other. Every engine reads
every prompt anew. The arms take turns; times are those of all cases together, the best of `--repeats`, and a
speed-up is that of an engine over itself. It fails if lookup changes a token of weft's replies.
Run: ``weft bench lookup``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from weft.apps.reference_model.training.encoder import END, MODEL, PAD, Encoder
from weft.apps.reference_model.training.evaluate import GROUPS, cases
from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import load_model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Finished, GenerateRequest

MOST: Final = 96
"""Tokens of a reply; the longest right one has about 60."""
TOGETHER: Final = 16
_PROFILE_S: Final = 1.5
_KV_TOKENS: Final = 65_536

Ids = tuple[int, ...]
Arm = Callable[[Sequence[Ids]], list[Ids]]
"""From prompts to replies."""


@dataclass(frozen=True, slots=True)
class Row:
    """One task."""

    task: str
    tokens: int
    """Of all replies, ends included."""
    steps: tuple[int, int]
    """Of the engine, one case after the other, without and with lookup."""
    ms: dict[str, tuple[float, float]]
    """Of all cases, without and with lookup."""

    def faster(self, name: str) -> float:
        """How many times as fast lookup makes it."""
        without, with_lookup = self.ms[name]
        return without / with_lookup


def measure(
    task: str,
    prompts: Sequence[Ids],
    arms: dict[str, tuple[Arm, Arm]],
    steps: Sequence[Callable[[], int]],
    repeats: int,
) -> Row:
    """Let all arms answer the same prompts, in turn; `steps` counts those of the two engines so far."""
    best = {name: [float("inf"), float("inf")] for name in arms}
    counted = [0, 0]
    replies: list[Ids] = []
    for _ in range(repeats):
        for name, pair in arms.items():
            for index, arm in enumerate(pair):
                before, began = steps[index](), time.perf_counter()
                found = arm(prompts)
                best[name][index] = min(best[name][index], (time.perf_counter() - began) * 1e3)
                if name == "one":
                    counted[index] = steps[index]() - before
                if name in ("one", "together"):
                    replies = replies or found
                    if found != replies:
                        raise SystemExit(f"{task}: lookup or batching has changed a reply")
    ms = {name: (pair[0], pair[1]) for name, pair in best.items()}
    return Row(task, sum(map(len, replies)), (counted[0], counted[1]), ms)


def weft(engine: LLMEngine, together: int) -> Arm:
    """So many requests at once."""

    def run(prompts: Sequence[Ids]) -> list[Ids]:
        engine.flush()
        asked = [GenerateRequest(ids, sampling=Sampling(max_tokens=MOST)) for ids in prompts]
        parts = [asked[first : first + together] for first in range(0, len(asked), together)]
        found = [events[-1] for part in parts for events in run_requests(engine, part)]
        return [last.ids for last in found if isinstance(last, Finished)]

    return run


def transformers(device: torch.device, **drafting: int) -> Arm:
    """One `generate` after the other."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model.to(device)

    def run(prompts: Sequence[Ids]) -> list[Ids]:
        replies = []
        with torch.inference_mode():
            for prompt in prompts:
                ids = torch.tensor([prompt], device=device)
                output = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=MOST,
                    do_sample=False,
                    eos_token_id=END,
                    pad_token_id=PAD,
                    **drafting,
                )
                replies.append(tuple(output[0, len(prompt) :].tolist()))
        return replies

    return run


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="lookup", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=16, help="cases a task (16)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the best counts (3)")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    options = parser.parse_args(argv)
    with ExitStack() as stack:
        model = load_model(MODEL, dtype="float32")
        engines = [
            stack.enter_context(
                LLMEngine(model, None, EngineOptions(kv_tokens=_KV_TOKENS, prompt_lookup=lookup))
            )
            for lookup in (False, True)
        ]
        for engine in engines:
            engine.measure_profile(_PROFILE_S)
        plain, looking = engines
        arms = {
            "one": (weft(plain, 1), weft(looking, 1)),
            "together": (weft(plain, TOGETHER), weft(looking, TOGETHER)),
            "transformers": (
                transformers(model.device),
                transformers(model.device, prompt_lookup_num_tokens=10),
            ),
        }
        steps = [lambda engine=engine: engine.stats().steps for engine in engines]
        rows = []
        print(f"{'':32}{'tokens':>8}{'steps':>14}   speed-up: one{'together':>11}{'transformers':>15}")
        encode = Encoder()
        for task, group in GROUPS.items():
            prompts = [tuple(case.tokens(encode)[0]) for case in cases(group, options.count, 1.0)]
            row = measure(task, prompts, arms, steps, options.repeats)
            rows.append(row)
            counted = f"{row.steps[0]} -> {row.steps[1]}"
            faster = (
                f"{row.faster('one'):16.2f}{row.faster('together'):11.2f}{row.faster('transformers'):15.2f}"
            )
            print(f"{row.task:32}{row.tokens:8}{counted:>14}{faster}", flush=True)
    if options.json:
        report = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": torch.cuda.get_device_name() if model.device.type == "cuda" else platform.machine(),
            "torch": torch.__version__,
            "count": options.count,
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
