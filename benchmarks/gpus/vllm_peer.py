"""vLLM under the load of `weft bench gpu`, in a process of its own, with dummy weights; prints JSON.

Run with a JSON object: the model's configuration, batches, prompt, output, budget and prompts to read. What
vLLM does by default it does here: torch.compile, CUDA graphs. Its prefix cache is off, as no prompt shares
anything. Its engine's own loop is timed, so that neither a server nor a client is in the way.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpus.timing import decode_speed


def main() -> None:
    """Measure."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    began = time.perf_counter()
    import vllm  # type: ignore[import-not-found]  # which only its own folder has

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(asked["config"]))
        most = max(asked["batches"])
        llm = vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=8192,
            max_num_seqs=most,
            max_num_batched_tokens=asked["budget"],
            gpu_memory_utilization=0.85,
            enable_prefix_caching=False,
            distributed_executor_backend="uni",
        )
    started = time.perf_counter() - began
    engine: Any = llm.llm_engine
    vocab = asked["config"]["vocab_size"]

    def serve(batch: int, output: int, seed: int) -> list[list[float]]:
        chance = random.Random(seed)
        params = vllm.SamplingParams(temperature=0, max_tokens=output, ignore_eos=True, detokenize=False)
        for number in range(batch):
            ids = chance.choices(range(10, vocab), k=asked["prompt"])
            engine.add_request(str(number), {"prompt_token_ids": ids}, params)
        times: dict[str, list[float]] = {str(number): [] for number in range(batch)}
        while engine.has_unfinished_requests():
            outputs = engine.step()
            now = time.perf_counter()
            for found in outputs:
                own = times[found.request_id]
                own += [now] * (len(found.outputs[0].token_ids) - len(own))
        return list(times.values())

    serve(min(most, 8), 8, seed=1)
    rows = {}
    for batch in asked["batches"]:
        rows[batch], _ = decode_speed(serve(batch, asked["output"], seed=100 + batch))
    serve(asked["prompts"], 1, seed=6)
    began = time.perf_counter()
    serve(asked["prompts"], 1, seed=7)
    reading = asked["prompts"] * asked["prompt"] / (time.perf_counter() - began)
    found = {"version": vllm.__version__, "start_s": started, "decode": rows}
    print(json.dumps({**found, "prefill_tokens_s": reading}))


if __name__ == "__main__":
    main()
