"""vLLM under the loads of weft, on the same device, in a process of its own that ends before weft begins."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from .prompts import PREFIX_OUTPUT, PREFIX_REQUESTS, PREFIX_TREES, Ids, tree, unshared
from .timing import decode_speed, whole_seconds

__all__ = ["Peer"]

_SCRIPT: Final = Path(__file__).with_name("vllm_peer.py")
_CONTEXT: Final = 8192  # tokens a request has room for


class Load(NamedTuple):
    """Requests that come at once."""

    prompts: Sequence[Ids]
    output: int  # tokens that each writes


class Peer:
    """A Python that has vLLM."""

    def __init__(self, command: str, config: dict[str, Any]) -> None:
        """`command` starts that Python; `config` is what config.json says of the model."""
        self._command = shlex.split(command)
        self._config = config
        self._vocab: int = config["vocab_size"]

    def decode(self, batches: Sequence[int], prompt: int, output: int, reading: int) -> dict[str, Any]:
        """Prompts that share nothing: the speed of writing at each batch, that of reading so many prompts."""
        most = max(batches)

        def load(count: int, written: int, seed: int) -> Load:
            return Load(unshared(count, prompt, self._vocab, seed), written)

        loads = {"warm-up": load(min(most, 8), 8, 1)}
        loads |= {str(batch): load(batch, output, 100 + batch) for batch in batches}
        loads |= {"reading, warm-up": load(reading, 1, 6), "reading": load(reading, 1, 7)}
        found = self._run(loads, max_num_seqs=most, enable_prefix_caching=False)
        times = found.pop("times")
        return {
            **found,
            "rows": {batch: decode_speed(times[str(batch)])[0] for batch in batches},
            "prefill_tokens_s": reading * prompt / whole_seconds(times["reading"]),
        }

    def shared_prefix(self, *, cascade: bool) -> dict[str, Any]:
        """Prompts below a tree, with its prefix cache; `cascade`: with its own kernel for what all share."""
        loads = {"warm-up": Load(tree((64, 64), self._vocab, seed=1), 8)}
        for name, levels in PREFIX_TREES.items():
            loads[f"{name}, warm-up"] = Load(tree(levels, self._vocab, seed=1), 8)
            loads[name] = Load(tree(levels, self._vocab, seed=2), PREFIX_OUTPUT)
        found = self._run(
            loads, max_num_seqs=PREFIX_REQUESTS, enable_prefix_caching=True, disable_cascade_attn=not cascade
        )
        times = found.pop("times")
        for name in PREFIX_TREES:
            speed, step = decode_speed(times[name])
            found[name] = {"tokens_s": speed, "step_ms": step * 1e3, "seconds": whole_seconds(times[name])}
        return found

    def _run(self, loads: Mapping[str, Load], **settings: Any) -> dict[str, Any]:
        """Start vLLM, which forgets what it has read before every load.

        Returns its version, the seconds of its start, and, for each load, the times of each request's tokens.
        Raises RuntimeError if it fails.
        """
        asked = {
            "config": self._config,
            "settings": {"max_model_len": min(_CONTEXT, self._config["max_position_embeddings"]), **settings},
            "loads": loads,
        }
        with tempfile.TemporaryDirectory() as folder:
            question, answer = Path(folder, "asked.json"), Path(folder, "answer.json")
            question.write_text(json.dumps(asked), encoding="utf-8")
            # Its environment is its own: what weft's Python needs must not get in the way.
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            environment["PYTHONSAFEPATH"] = "1"  # nor what lies in the folder that this was started in
            command = [*self._command, str(_SCRIPT), str(question), str(answer)]
            status = subprocess.run(command, env=environment, check=False).returncode
            if not answer.exists():
                raise RuntimeError(f"vLLM ended with status {status}; see above: {shlex.join(command)}")
            found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found
