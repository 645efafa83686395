"""How near the LLM engine comes to what a GPU can do: random weights of known shapes, bfloat16.

Measured on the same device in the same run: the copy bandwidth and the rate of bfloat16 products. A step of
decodes cannot take less than reading the weights and the contexts at that bandwidth, or than its products at
that rate, whichever is more: the roofline. Of experts it reads those that a step of so many tokens is
expected to go through.

`--loads` names what is measured. `decode`: for each batch, with prompts of `--prompt` tokens, nothing shared,
tokens a second while all requests write, through the engine's door, all sampled greedily; the roofline, and
the fraction reached; the same without CUDA graphs if `--graphs-off`; a trace of the device at the largest
batch; then the speed of reading, and what starting takes. `shared-prefix`, `long-prompt`, `tight-pool`: see
`gpus/loads.py`. `turns`: the first token of short prompts, with graphs and without (`gpus/turns.py`).
`start`: a new process on a checkpoint, up to its first token. `codes`: the same checkpoint by weft's code and
by that of transformers (`gpus/codes.py`). `copying`: with and without drafts from the context
(`gpus/copying.py`); no other load has them. `same-texts` and `tensor-parallel`: one GPU against
`--tensor-parallel` of them, see `gpus/parallel.py`.

`--vllm PYTHON` runs vLLM first, under the same prompts on the same device (`gpus/peer.py`): `decode` with its
prefix cache off, `shared-prefix` with it on, with and without its kernel for common prefixes. PYTHON is the
command of a Python that has it, such as ``/opt/vllm/bin/python`` or ``"env PYTHONPATH=/opt/vllm python3"``.
`weft_by_vllm` is weft's speed over vLLM's.

`beyond_graph` is one less the time of the step's graph, run many times on end, over the time of a step of
the engine: what drawing tokens, moving them and waiting take. Run: ``weft bench gpu``.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any, Final

import torch
from engines.models import SHAPES, config_of, counting_model, random_model
from gpus.ceilings import copy_bandwidth, product_rate, roofline, seconds
from gpus.clocks import serve
from gpus.codes import by_both_codes
from gpus.copying import copying
from gpus.loads import LOADS
from gpus.parallel import decode_together, same_texts
from gpus.peer import Peer
from gpus.prompts import Ids, unshared
from gpus.starting import start_seconds
from gpus.timing import decode_speed, whole_seconds
from gpus.trace import trace_decodes

from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.gpu.runner import GpuRunner
from weft.runtime.llm.options import EngineOptions

BATCHES: Final = (1, 8, 32, 64, 128, 256)
PROMPTS: Final = 64  # that are read
BUDGET: Final = 8192  # tokens a step
_APART: Final = ("start", "codes", "copying", "same-texts", "tensor-parallel")  # with models of their own


def graph_seconds(engine: LLMEngine, batch: int, context: int) -> float:
    """The time of the device for a step: its graph over contexts of such a length, run on end."""
    runner = engine._runner  # nothing else times the device alone
    graphs = runner.graphs if isinstance(runner, GpuRunner) else None
    assert graphs is not None, "no steps have been captured"
    captured = graphs.graph_for(batch)
    inputs = captured.tokens
    rows = torch.zeros_like(inputs)
    rows[0], rows[2] = 7, context
    rows[1] = runner.pool.slots  # the slot of idle rows
    rows[3] = torch.arange(1, inputs.shape[1] + 1)
    inputs.copy_(rows)
    return seconds(captured.graph.replay, 20)


def decode(model: GpuModel, options: argparse.Namespace, ceilings: tuple[float, float]) -> dict[str, Any]:
    """The speed of writing at each batch, that of reading, a trace, and the time of starting."""
    most = max(options.batches)
    slots = most * (options.prompt + options.output) + 1024
    rows: dict[int, dict[str, float]] = {batch: {} for batch in options.batches}
    report: dict[str, Any] = {"rows": rows}

    def prompts(count: int, seed: int) -> list[Ids]:
        return unshared(count, options.prompt, model.config.vocab_size, seed)

    for graphs in (True, False) if options.graphs_off else (True,):
        started = time.perf_counter()
        settings = EngineOptions(
            kv_tokens=slots,
            host_kv_tokens=options.host_kv_tokens,
            token_budget=BUDGET,
            max_running=most,
            cuda_graphs=graphs,
            prompt_lookup=False,
        )
        with LLMEngine(model, None, settings) as engine:
            serve(engine, unshared(1, 64, model.config.vocab_size, seed=0), 4)
            if graphs:
                report["start_s"] = time.perf_counter() - started
            serve(engine, prompts(min(most, 8), 1), 8)
            for batch in options.batches:
                speed, step = decode_speed(serve(engine, prompts(batch, 100 + batch), options.output))
                row = rows[batch]
                row["tokens_s" if graphs else "graphs_off"] = speed
                if graphs:
                    context = options.prompt + options.output / 2
                    row["roofline"] = roofline(model, batch, context, *ceilings)
                    row["fraction"] = speed / row["roofline"]
                    row["beyond_graph"] = 1 - graph_seconds(engine, batch, int(context)) / step
                print(batch, {name: round(value, 3) for name, value in row.items()}, flush=True)
            if graphs:
                report["trace"] = trace_decodes(engine, most, options.prompt)
                serve(engine, prompts(PROMPTS, 6), 1)  # compiles what this needs
                took = whole_seconds(serve(engine, prompts(PROMPTS, 7), 1))
                report["prefill_tokens_s"] = PROMPTS * options.prompt / took
    return report


def beside(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """weft's speeds over vLLM's, under the loads that both ran."""
    ratios: dict[str, Any] = {}
    if "decode" in ours and "decode" in theirs:
        rows = ours["decode"]["rows"]
        ratios["decode"] = {
            batch: rows[batch]["tokens_s"] / speed for batch, speed in theirs["decode"]["rows"].items()
        }
        ratios["prefill"] = ours["decode"]["prefill_tokens_s"] / theirs["decode"]["prefill_tokens_s"]
    for arm in ("shared-prefix", "shared-prefix, cascade"):
        if "shared-prefix" in ours and arm in theirs:
            ratios[arm] = {
                name: {
                    "tokens_s": rows["shared"]["tokens_s"] / theirs[arm][name]["tokens_s"],
                    "with_reading": theirs[arm][name]["seconds"] / rows["shared"]["seconds"],
                }
                for name, rows in ours["shared-prefix"].items()
            }
    return ratios


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    loads = ["decode", *LOADS, *_APART]
    parser.add_argument("--model", choices=list(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--loads", choices=loads, nargs="+", default=["decode"])
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("--output", type=int, default=256)
    parser.add_argument("--graphs-off", action="store_true", help="decode without CUDA graphs, too")
    parser.add_argument(
        "--host-kv-tokens",
        type=int,
        metavar="N",
        help="of `decode`, where nothing is used that a host tier keeps; 0: none; default: the engine's",
    )
    parser.add_argument("--layers", type=int, help="fewer than the shape has, so that it fits")
    parser.add_argument(
        "--quantization",
        choices=("none", "fp8", "int4"),
        default="none",
        help="of the matrices, in --loads of one model",
    )
    parser.add_argument("--tensor-parallel", type=int, default=2, metavar="N", help="GPUs that share a model")
    parser.add_argument("--vllm", metavar="PYTHON", help="a Python that has vLLM, which runs first")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("weft bench gpu needs a GPU: torch finds none")
    fp8 = options.quantization == "fp8"
    bandwidth, rate = copy_bandwidth(), product_rate(fp8=fp8)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "gpus": torch.cuda.device_count(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "model": options.model,
        "layers": options.layers,
        "prompt": options.prompt,
        "output": options.output,
        "host_kv_tokens": options.host_kv_tokens,
        "copy_gb_s": bandwidth / 1e9,
        "quantization": options.quantization,
        f"{'fp8' if fp8 else 'bf16'}_tflops": rate / 1e12,
    }

    def note(name: str, found: dict[str, Any]) -> None:
        print(f"{name}: {json.dumps(found)}", flush=True)
        report[name] = found
        if options.json:
            options.json.write_text(json.dumps(report, indent=2) + "\n")

    print(", ".join(f"{key} {value}" for key, value in report.items()), flush=True)
    torch.cuda.empty_cache()
    theirs: dict[str, Any] = {}
    if options.vllm:
        peer = Peer(options.vllm, config_of(options.model, layers=options.layers))
        if "decode" in options.loads:
            theirs["decode"] = peer.decode(options.batches, options.prompt, options.output, PROMPTS)
            note("vllm", theirs)
        if "shared-prefix" in options.loads:
            theirs["shared-prefix"] = peer.shared_prefix(cascade=False)
            theirs["shared-prefix, cascade"] = peer.shared_prefix(cascade=True)
            note("vllm", theirs)
    if "start" in options.loads:
        note("start", start_seconds(options.model))
    if "codes" in options.loads:
        note("codes", by_both_codes(options.model, options.batches, options.prompt, options.output))
    if "copying" in options.loads:
        model = counting_model(options.model, torch.bfloat16, torch.device("cuda"), layers=options.layers)
        note("copying", copying(model))
        del model
        gc.collect()
        torch.cuda.empty_cache()
    ranks = options.tensor_parallel
    if "same-texts" in options.loads:
        note("same-texts", same_texts(ranks, "cuda:0"))
    if "tensor-parallel" in options.loads:
        lengths, ceilings = (options.prompt, options.output), (bandwidth, rate)
        found = decode_together(options.model, options.layers, ranks, options.batches, lengths, ceilings)
        note("tensor-parallel", found)
    if set(options.loads) - set(_APART):
        device = torch.device("cuda")
        kept = options.quantization
        model = random_model(options.model, torch.bfloat16, device, layers=options.layers, quantization=kept)
        torch.cuda.synchronize()
        for name in options.loads:
            if name == "decode":
                note("decode", decode(model, options, (bandwidth, rate)))
            elif name in LOADS:
                note(name, LOADS[name](model))
            gc.collect()  # the engine of this load, before the next one reserves its pool
            torch.cuda.empty_cache()
    if theirs:
        note("weft_by_vllm", beside(report, theirs))


if __name__ == "__main__":
    main()
