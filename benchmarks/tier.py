"""What the host tier is worth on a GPU: conversations that hold more KV than the device has room for.

Random weights of a known shape. `--conversations` of them are held at once, `--turns` messages each, every
message of `--message` random tokens and every reply of `--reply` greedy ones; `--parallel` are answered at
a time, in an order that is drawn anew for every turn. Three engines, one after the other: `off` has a
device pool of `--kv-tokens` and no host tier, `tier` the same pool and a host tier for all conversations,
`roomy` a device pool for all of them: as if copies cost nothing.

For each: seconds of a round, the share of prompt tokens found in the cache, how many were copied back, and
how many replies are those of the first (in bfloat16 a batch of another composition rounds otherwise); how
long the engine took to start, and the speed of copies to the device, as the tier measured it.
Run: ``weft bench tier``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from engines.models import SHAPES, random_model

from weft.graph.sampling import Sampling
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Event, Failed, Finished, GenerateRequest

ARMS: Final = ("off", "tier", "roomy")

Ids = tuple[int, ...]


class Asker:
    """Asks an engine some requests at a time, and waits for all."""

    def __init__(self, engine: LLMEngine, parallel: int) -> None:
        self._engine = engine
        self._parallel = parallel

    def ask(self, prompts: Sequence[Ids], reply: int) -> list[Ids]:
        """The replies, each of `reply` tokens."""
        replies: list[Ids] = [()] * len(prompts)
        places, ended = threading.Semaphore(self._parallel), threading.Semaphore(0)

        def sink(number: int) -> Any:
            def take(events: Sequence[Event]) -> None:
                for event in events:
                    if isinstance(event, Finished | Failed):
                        replies[number] = event.ids if isinstance(event, Finished) else ()
                        places.release()
                        ended.release()

            return take

        for number, prompt in enumerate(prompts):
            places.acquire()
            self._engine.submit(GenerateRequest(prompt, sampling=Sampling(max_tokens=reply)), sink(number))
        for _ in prompts:
            ended.acquire()
        if not all(replies):
            raise SystemExit("a request failed: the log says why")
        return replies


def converse(engine: LLMEngine, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Hold all conversations; `replies` are by conversation and turn."""
    rng = random.Random(seed)
    histories: list[Ids] = [()] * options.conversations
    replies: list[list[Ids]] = [[] for _ in histories]
    asker = Asker(engine, options.parallel)
    before, prompts = engine.stats(), 0
    times = [time.perf_counter()]
    for _ in range(options.turns):
        order = rng.sample(range(len(histories)), len(histories))
        for number in order:
            histories[number] += tuple(rng.choices(range(10, engine.info.vocab_size), k=options.message))
        prompts += sum(map(len, histories))
        for number, reply in zip(
            order, asker.ask([histories[number] for number in order], options.reply), strict=True
        ):
            histories[number] += reply
            replies[number].append(reply)
        times.append(time.perf_counter())
    after = engine.stats()
    return {
        "seconds": times[-1] - times[0],
        "turns_s": [round(end - begin, 2) for begin, end in itertools.pairwise(times)],
        "found": (after.cached_tokens - before.cached_tokens) / prompts,
        "restored": after.restored_tokens - before.restored_tokens,
        "computed": after.computed_tokens - before.computed_tokens,
        "replies": replies,
    }


def start(arm: str, model: GpuModel, options: argparse.Namespace) -> tuple[LLMEngine, float]:
    """An engine of an arm, and the seconds that it took to start."""
    turn = options.message + options.reply
    everything = int(1.1 * options.conversations * options.turns * turn)
    begun = time.perf_counter()
    engine = LLMEngine(
        model,
        None,
        EngineOptions(
            kv_tokens=everything if arm == "roomy" else options.kv_tokens,
            host_kv_tokens=everything if arm == "tier" else 0,
            max_running=options.parallel,
        ),
    )
    return engine, time.perf_counter() - begun


def measure(model: GpuModel, options: argparse.Namespace) -> dict[str, Any]:
    """All arms, each in an engine of its own that has run a small load before, and forgets everything in
    between."""
    arms: dict[str, Any] = {}
    small = argparse.Namespace(**{**vars(options), "conversations": 4, "turns": 2})
    for arm in options.arms:
        engine, started = start(arm, model, options)
        found: dict[str, Any] = {"start_s": started, "rounds": []}
        with engine:
            engine.measure_profile(1.0)  # as a worker does: the tier weighs copies against it
            converse(engine, small, seed=0)
            for seed in range(1, options.rounds + 1):
                engine.flush()
                found["rounds"].append(converse(engine, options, seed))
                print(arm, _numbers(found["rounds"][-1]), flush=True)
            if engine._tier is not None:  # nobody else knows how fast it is
                token_ms = engine._tier.load_ms(2) - engine._tier.load_ms(1)
                found["load_gb_s"] = engine.info.kv_bytes_per_token / token_ms / 1e6
        del engine
        gc.collect()
        torch.cuda.empty_cache()
        arms[arm] = found
        pairs = list(zip(_replies(found), _replies(arms[options.arms[0]]), strict=True))
        found["same_replies"] = sum(ours == theirs for ours, theirs in pairs) / len(pairs)
        told = {key: round(value, 3) for key, value in found.items() if key != "rounds"}
        print(arm, told, flush=True)
    for found in arms.values():
        found["rounds"] = [_numbers(row) for row in found["rounds"]]
    return arms


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "replies"}


def _replies(found: dict[str, Any]) -> list[Ids]:
    return [reply for row in found["rounds"] for replies in row["replies"] for reply in replies]


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=ARMS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--message", type=int, default=1500, help="tokens")
    parser.add_argument("--reply", type=int, default=64, help="tokens")
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--kv-tokens", type=int, default=65536, help="of the small device pool")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("weft bench tier needs a GPU: torch finds none")
    model = random_model(options.model, getattr(torch, options.dtype), torch.device("cuda"))
    load = ("model", "dtype", "conversations", "turns", "message", "reply", "parallel", "kv_tokens")
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        **{name: getattr(options, name) for name in load},
    }
    print(", ".join(f"{key} {value}" for key, value in report.items()), flush=True)
    report["arms"] = measure(model, options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
