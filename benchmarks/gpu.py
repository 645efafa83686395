"""How near the LLM engine comes to what a GPU can do: random weights of known shapes, bfloat16.

Measured on the same device in the same run: the copy bandwidth and the rate of bfloat16 products. A step of
decodes cannot take less than reading the weights and the contexts at that bandwidth, or than its products at
that rate, whichever is more: the roofline. For each batch, with prompts of `--prompt` tokens, nothing shared:
tokens a second while all requests write, through the engine's door, all sampled greedily; the roofline, and
the fraction reached; the same without CUDA graphs. Then the speed of reading, and what starting takes.

`idle` is the share of a decode step in which the device has nothing to do: one less the time of the step's
graph, run many times on end, over the time of a step of the engine. Run: ``weft bench gpu``.
"""

from __future__ import annotations

import argparse
import json
import random
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
from weft.runtime.llm.requests import Delta, Event, Finished, GenerateRequest

BATCHES: Final = (1, 8, 32, 64, 128, 256)
PROMPTS: Final = 64  # that are read
BUDGET: Final = 8192  # tokens a step


def copy_bandwidth() -> float:
    """Bytes a second that the device reads and writes while it copies."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source), 20)


def product_rate() -> float:
    """Floating-point operations a second of a large bfloat16 product."""
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return 2 * 8192**3 / _seconds(lambda: torch.matmul(a, b), 20)


def _seconds(run: Any, repeats: int) -> float:
    for _ in range(3):
        run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch has no types for it
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeats


class Clock:
    """A sink that notes when tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.done = False

    def __call__(self, events: Sequence[Event]) -> None:
        """Take the events of a step."""
        now = time.perf_counter()
        for event in events:
            if isinstance(event, Delta):
                self.times += [now] * len(event.ids)
            self.done = self.done or isinstance(event, Finished)


def serve(engine: LLMEngine, batch: int, prompt: int, output: int, seed: int) -> list[Clock]:
    """Run requests that share nothing; when their tokens came."""
    rng = random.Random(seed)
    vocab = engine.info.vocab_size
    clocks = [Clock() for _ in range(batch)]
    for clock in clocks:
        ids = tuple(rng.randrange(10, vocab) for _ in range(prompt))
        engine.submit(GenerateRequest(ids, sampling=Sampling(max_tokens=output)), clock)
    while not all(clock.done for clock in clocks):
        time.sleep(0.002)
    return clocks


def decode_speed(clocks: Sequence[Clock]) -> tuple[float, float]:
    """Tokens a second while all requests write, and the seconds of a step."""
    begin = max(clock.times[0] for clock in clocks)
    end = min(clock.times[-1] for clock in clocks)
    tokens = sum(begin < at <= end for clock in clocks for at in clock.times)
    return tokens / (end - begin), (end - begin) * len(clocks) / tokens


def roofline(model: GpuModel, batch: int, context: float, bandwidth: float, rate: float) -> float:
    """Tokens a second that a step of decodes cannot exceed."""
    c = model.config
    qkv = (c.heads + 2 * c.kv_heads) * c.head_dim
    layer = c.hidden_size * (qkv + c.heads * c.head_dim + 3 * c.intermediate_size)
    parameters = c.layers * layer + c.vocab_size * c.hidden_size
    bytes_read = parameters * model.dtype.itemsize + batch * context * model.kv_bytes_per_token
    operations = 2 * batch * parameters + 4 * batch * context * c.layers * c.heads * c.head_dim
    return batch / max(bytes_read / bandwidth, operations / rate)


def graph_seconds(engine: LLMEngine, batch: int, context: int) -> float:
    """The time of the device for a step: its graph over contexts of such a length, run on end."""
    runner: Any = engine._runner  # nothing else times the device alone
    graphs = runner._graphs
    captured = graphs.graph_for(batch)
    inputs = captured.tokens
    rows = torch.zeros_like(inputs)
    rows[0], rows[2] = 7, context
    rows[1] = runner.pool.slots  # the slot of idle rows
    rows[3] = torch.arange(1, inputs.shape[1] + 1)
    inputs.copy_(rows)
    return _seconds(captured.graph.replay, 20)


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("--output", type=int, default=256)
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("weft bench gpu needs a GPU: torch finds none")
    bandwidth, rate = copy_bandwidth(), product_rate()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "model": options.model,
        "prompt": options.prompt,
        "output": options.output,
        "copy_gb_s": bandwidth / 1e9,
        "bf16_tflops": rate / 1e12,
    }
    print(", ".join(f"{key} {value}" for key, value in report.items()), flush=True)
    model = random_model(options.model, torch.bfloat16, torch.device("cuda"))
    torch.cuda.synchronize()
    rows: dict[int, dict[str, float]] = {batch: {} for batch in options.batches}
    report["rows"] = rows
    most = max(options.batches)
    slots = most * (options.prompt + options.output) + 1024
    for graphs in (True, False):
        started = time.perf_counter()
        settings = EngineOptions(kv_tokens=slots, token_budget=BUDGET, max_running=most, cuda_graphs=graphs)
        with LLMEngine(model, None, settings) as engine:
            serve(engine, 1, 64, 4, seed=0)
            if graphs:
                report["start_s"] = time.perf_counter() - started
                print(
                    f"from weights on the device to the first answer: {report['start_s']:.1f} s", flush=True
                )
            serve(engine, min(most, 8), options.prompt, 8, seed=1)
            for batch in options.batches:
                speed, step = decode_speed(
                    serve(engine, batch, options.prompt, options.output, seed=100 + batch)
                )
                row = rows[batch]
                row["tokens_s" if graphs else "graphs_off"] = speed
                if graphs:
                    context = options.prompt + options.output / 2
                    row["roofline"] = roofline(model, batch, context, bandwidth, rate)
                    row["fraction"] = speed / row["roofline"]
                    row["idle"] = 1 - graph_seconds(engine, batch, int(context)) / step
                print(batch, {name: round(value, 3) for name, value in row.items()}, flush=True)
            if graphs:
                serve(engine, PROMPTS, options.prompt, 1, seed=6)  # compiles what this needs
                began = time.perf_counter()
                serve(engine, PROMPTS, options.prompt, 1, seed=7)
                report["prefill_tokens_s"] = PROMPTS * options.prompt / (time.perf_counter() - began)
                print(f"reading: {report['prefill_tokens_s']:.0f} tokens/s", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
