"""The engines, each as a function from prompts to greedy tokens; no end of sequence ends an output.

All run the same checkpoint in float32 with as many threads as torch has been given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from weft.runtime.llm.model import Code

__all__ = ["ARMS", "Engine", "environment"]

Ids = list[int]
Engine = Callable[[Sequence[Ids], Sequence[int]], list[Ids]]
"""Continues each prompt by so many tokens, all prompts at once."""


def weft(folder: Path) -> Engine:
    """weft's LLM engine, called as its worker calls it."""
    return _weft(folder, "weft")


def hosted(folder: Path) -> Engine:
    """weft's LLM engine on the modelling code of transformers."""
    return _weft(folder, "transformers")


def _weft(folder: Path, code: Code) -> Engine:
    from weft.graph.sampling import Sampling
    from weft.runtime.llm.blocking import run_requests
    from weft.runtime.llm.engine import LLMEngine
    from weft.runtime.llm.model import load_model
    from weft.runtime.llm.options import EngineOptions
    from weft.runtime.llm.requests import Finished, GenerateRequest

    model = load_model(folder, dtype="float32", device="cpu", code=code)
    model.config = replace(model.config, eos_ids=frozenset())
    # Random weights fall into loops, of which drafts from the context are always right.
    engine = LLMEngine(model, None, EngineOptions(prompt_lookup=False))

    def run(prompts: Sequence[Ids], outputs: Sequence[int]) -> list[Ids]:
        requests = [
            GenerateRequest(tuple(ids), sampling=Sampling(max_tokens=count))
            for ids, count in zip(prompts, outputs, strict=True)
        ]
        events = run_requests(engine, requests)
        return [list(e.ids) for found in events for e in found if isinstance(e, Finished)]

    return run


def transformers_generate(folder: Path) -> Engine:
    """One call of `generate` on the batch, padded on the left; it lasts as long as the longest output."""
    model = _transformers_model(folder)

    def run(prompts: Sequence[Ids], outputs: Sequence[int]) -> list[Ids]:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=mask, max_new_tokens=max(outputs), do_sample=False)
        new: list[Ids] = found[:, width:].tolist()
        return [row[:count] for row, count in zip(new, outputs, strict=True)]

    return run


def transformers_continuous(folder: Path) -> Engine:
    """The continuous batching of transformers, with shared prefixes; its manager runs all the time."""
    from transformers import ContinuousBatchingConfig

    model = _transformers_model(folder)
    config = ContinuousBatchingConfig(
        num_blocks=256, page_size=256, max_batch_tokens=512, use_cuda_graph=False, use_async_batching=False
    )
    manager = model.init_continuous_batching(continuous_batching_config=config)
    manager.start()

    def run(prompts: Sequence[Ids], outputs: Sequence[int]) -> list[Ids]:
        order = [
            manager.add_request(ids, max_new_tokens=count)
            for ids, count in zip(prompts, outputs, strict=True)
        ]
        found: dict[str, Ids] = {}
        while len(found) < len(order):
            result = manager.get_result(timeout=60)
            if result is None or result.error:
                raise RuntimeError(f"continuous batching failed: {result.error if result else 'timeout'}")
            if result.is_finished():
                found[result.request_id] = result.generated_tokens
        return [found[name] for name in order]

    return run


def llama_cpp(folder: Path) -> Engine:
    """llama.cpp through its C interface, one sequence after the other; it keeps the last one's KV."""
    from .llama import LlamaCpp

    return LlamaCpp(folder, torch.get_num_threads()).run


def vllm_cpu(folder: Path) -> Engine:
    """vLLM as it comes for a CPU: compiled by inductor, with its prefix cache, its engine in this process."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(folder),
        dtype="float32",
        skip_tokenizer_init=True,
        distributed_executor_backend="uni",
    )

    def run(prompts: Sequence[Ids], outputs: Sequence[int]) -> list[Ids]:
        params = [
            SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
            for count in outputs
        ]
        found = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [list(request.outputs[0].token_ids) for request in found]

    return run


ARMS: dict[str, Callable[[Path], Engine]] = {
    "weft": weft,
    "hosted": hosted,
    "transformers": transformers_generate,
    "continuous": transformers_continuous,
    "llama.cpp": llama_cpp,
    "vllm": vllm_cpu,
}
"""Every engine, by the name that the tables use."""


def environment(arm: str, threads: int, *, elsewhere: bool = False) -> dict[str, str]:
    """The environment of an arm's process: weft's threads wait as its workers' do, others as they like.

    `elsewhere`: it runs in another Python, which what this one needs must not get in the way of.
    """
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    found = {**os.environ, **quiet, **_OWN.get(arm, {})}
    if arm == "vllm" and threads < (os.cpu_count() or 1):
        found["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"  # or it takes all cores
    if elsewhere:
        found.pop("PYTHONPATH", None)
        found["PYTHONSAFEPATH"] = "1"
    return found


_OWN: Final[dict[str, dict[str, str]]] = {
    "weft": {"OMP_WAIT_POLICY": "PASSIVE"},
    "hosted": {"OMP_WAIT_POLICY": "PASSIVE"},
    "vllm": {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, which can be stopped between its turns
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_LOGGING_LEVEL": "ERROR",
    },
}


def _transformers_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model
