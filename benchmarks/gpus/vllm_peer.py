"""vLLM under loads that a file describes; when which token came goes into another. Knows nothing of weft.

    python vllm_peer.py ASKED ANSWER

ASKED: JSON of a model's configuration, settings of `vllm.LLM`, and loads by name, each a list of prompts and
how many tokens each writes. ANSWER: vLLM's version, the seconds of its start, and for each load the seconds
from the first request to each token of each.

All that is not in the settings is as vLLM has it by default: torch.compile, CUDA graphs, asynchronous steps,
the engine in a process of its own. Weights are random, no token ends a text, and no text is made of tokens.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure."""
    asked: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    began = time.perf_counter()
    import vllm  # it has an environment of its own, and takes seconds
    from vllm.sampling_params import RequestOutputKind

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(asked["config"]), encoding="utf-8")
        llm = vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            distributed_executor_backend="uni",
            **asked["settings"],
        )
    started = time.perf_counter() - began
    times = {}
    for name, (prompts, output) in asked["loads"].items():
        llm.reset_prefix_cache()
        params = vllm.SamplingParams(
            temperature=0,
            max_tokens=output,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        times[name] = serve(llm.llm_engine, prompts, params)
    answer = {"version": vllm.__version__, "start_s": started, "times": times}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def serve(engine: Any, prompts: list[list[int]], params: Any) -> list[list[float]]:
    """Run requests at once; seconds from the first one's submission to each token of each."""
    times: list[list[float]] = [[] for _ in prompts]
    began = time.perf_counter()
    for number, ids in enumerate(prompts):
        engine.add_request(str(number), {"prompt_token_ids": ids}, params)
    while engine.has_unfinished_requests():
        outputs = engine.step()
        now = time.perf_counter() - began
        for found in outputs:
            times[int(found.request_id)] += [now] * len(found.outputs[0].token_ids)
    return times


if __name__ == "__main__":
    main()
