"""Whether what makes steps faster changes what is written: greedy texts of the engine with and without it.

In float32 it changes nothing (tests/runtime/llm/engine). In bfloat16 a step of another composition sums in
another order, so near ties fall differently; every arm is therefore held against two that switch nothing on:
the same engine once more, and the same with fewer requests at a time.

A text is compared up to its first difference, as what follows has another beginning. `mismatch` is how many
texts differ over the tokens so compared: the chance that a token differs if those before it do not.

`switches`: a random model of a known shape; `forced tokens`: the reference model, under a grammar. On a GPU
if there is one, else with the torch references of its kernels. Run: ``weft bench agreement``.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from engines.models import SHAPES, random_model
from gpus.prompts import Ids, prompt_of

import weft
from weft.graph.sampling import JsonSchema, Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.config import read_config
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.loader import choose_device, load_weights
from weft.runtime.llm.model import Model
from weft.runtime.llm.options import EngineOptions, EngineStats
from weft.runtime.llm.requests import Finished, GenerateRequest
from weft.runtime.llm.tokenizer import Tokenizer

_REFERENCE: Final = Path(weft.__path__[0]) / "apps" / "reference_model" / "model"
_OFF: Final = {
    "cuda_graphs": False,
    "overlap": False,
    "shared_prefixes": False,
    "host_kv_tokens": 0,
    "prompt_lookup": False,
}
_ADDED: Final = 32  # tokens by which the second round's prompts are longer
_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "name_of_the_place": {"type": "string", "maxLength": 12},
        "kind_of_building": {"enum": ["residential", "residual"]},
        "born_in_the_year": {"type": "integer", "minimum": 1000, "maximum": 9999},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3},
    },
    "required": ["name_of_the_place", "kind_of_building", "born_in_the_year", "tags"],
    "additionalProperties": False,
}

Rates = dict[str, float]


def difference(ours: Sequence[Ids], theirs: Sequence[Ids]) -> Rates:
    """How texts differ, as the head of this file says, and which share of them does not."""
    different = compared = 0
    for left, right in zip(ours, theirs, strict=True):
        pairs = zip(left, right, strict=False)
        first = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
        differs = left != right
        different += differs
        compared += first + differs
    return {"mismatch": different / compared, "equal_texts": 1 - different / len(ours), "compared": compared}


def switches(
    model: Model, *, requests: int = 32, lengths: tuple[int, int] = (200, 400), output: int = 64
) -> dict[str, Rates]:
    """Overlap, CUDA graphs, retraction and the host tier, each against an engine without any of them.

    Two rounds: prompts that share nothing, and the same prompts with further tokens behind them.
    """
    chance, vocab = random.Random(11), model.config.vocab_size
    prompts = [prompt_of(chance.randrange(*lengths), vocab, chance) for _ in range(requests)]
    longer = [ids + prompt_of(_ADDED, vocab, chance) for ids in prompts]
    asked = [
        [GenerateRequest(ids, sampling=Sampling(max_tokens=output, ignore_eos=True)) for ids in round_]
        for round_ in (prompts, longer)
    ]
    tokens = sum(map(len, prompts))
    roomy = 2 * (sum(map(len, longer)) + 2 * requests * output)
    few = max(requests * 3 // 8, 1)
    some = {"max_running": few, "kv_tokens": tokens // 2}
    plain: dict[str, Any] = {**_OFF, "kv_tokens": roomy, "max_running": requests}
    arms: dict[str, dict[str, Any]] = {
        "the same once more": {},
        f"{few} requests at a time": {"max_running": few},
        "overlap": {"overlap": True},
    }
    if model.device.type == "cuda":
        arms["CUDA graphs"] = {"cuda_graphs": True}
        arms["overlap and CUDA graphs"] = {"overlap": True, "cuda_graphs": True}
    arms |= {
        "retraction": {"kv_tokens": tokens + requests * output * 5 // 8},  # half of each output is reserved
        "half the pool": some,
        "half the pool, and a host tier": {**some, "host_kv_tokens": 2 * tokens},
    }
    base, _ = _texts(model, plain, asked)
    report = {}
    for name, changed in arms.items():
        found, stats = _texts(model, plain | changed, asked)
        report[name] = difference(base, found)
        if name == "retraction":
            report[name]["retractions"] = _some(stats.retractions)
        if "host_kv_tokens" in changed:
            report[name]["restored_tokens"] = _some(stats.restored_tokens)
    return report


def forced(model: Model, tokenizer: Tokenizer, *, requests: int = 32) -> dict[str, Rates]:
    """JSON objects whose keys and choices a grammar forces, in one step or token by token."""
    asked = [
        [
            GenerateRequest(
                tuple(tokenizer.encode(f"Passage {number}: a house by the river.\nAnswer:", bos=True)),
                sampling=Sampling(max_tokens=120),
                constraint=JsonSchema(json.dumps(_SCHEMA)),
            )
            for number in range(requests)
        ]
    ]
    few = max(requests * 3 // 8, 1)
    plain: dict[str, Any] = {**_OFF, "kv_tokens": 512 * requests, "max_running": requests}
    arms: dict[str, dict[str, Any]] = {
        "the same once more": {},
        f"{few} requests at a time": {"max_running": few},
        "forced tokens": {"forced_tokens": True},
    }
    base, _ = _texts(model, {**plain, "forced_tokens": False}, asked, tokenizer)
    report = {}
    for name, changed in arms.items():
        found, stats = _texts(model, {**plain, "forced_tokens": False, **changed}, asked, tokenizer)
        report[name] = difference(base, found)
        if "forced_tokens" in changed:
            report[name]["forced"] = _some(stats.held_tokens) / stats.generated_tokens
    return report


def _texts(
    model: Model,
    options: Mapping[str, Any],
    rounds: Sequence[Sequence[GenerateRequest]],
    tokenizer: Tokenizer | None = None,
) -> tuple[list[Ids], EngineStats]:
    """What the requests write, those of a round at once; raises RuntimeError if one fails."""
    texts: list[Ids] = []
    engine = LLMEngine(model, tokenizer, EngineOptions(**options))
    with engine:
        for requests in rounds:
            for *_, last in run_requests(engine, requests):
                if not isinstance(last, Finished):
                    raise RuntimeError(f"a request ended with {last}")
                texts.append(last.ids)
        stats = engine.stats()
    del engine
    gc.collect()  # its pool, before the next one is reserved
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    return texts, stats


def _some(count: int) -> int:
    """The count; raises RuntimeError if it is 0, as the arm then shows nothing."""
    if not count:
        raise RuntimeError("the arm did not do what it is named after")
    return count


def reference_model(dtype: torch.dtype, device: torch.device) -> GpuModel:
    """The bundled model as a GPU runs it, wherever it is."""
    config = read_config(_REFERENCE)
    weights = load_weights(_REFERENCE, config, dtype=dtype, device=device)
    return GpuModel(config, weights, name="reference")


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(SHAPES), default="tiny-llama")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--output", type=int, default=64, help="tokens a text has")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    device, dtype = choose_device(options.device), getattr(torch, options.dtype)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        **{name: getattr(options, name) for name in ("model", "dtype", "requests", "output")},
    }
    model = random_model(options.model, dtype, device)
    report["switches"] = switches(model, requests=options.requests, output=options.output)
    tokenizer = Tokenizer.from_folder(_REFERENCE)
    report["forced tokens"] = forced(reference_model(dtype, device), tokenizer, requests=options.requests)
    for part in ("switches", "forced tokens"):
        for name, rates in report[part].items():
            print(
                f"{part}: {name}: {rates['mismatch']:.2%} of tokens, {rates['equal_texts']:.0%} equal texts"
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
