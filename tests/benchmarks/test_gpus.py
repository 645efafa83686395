"""What `weft bench gpu` counts and compares with, on a CPU: a made-up vLLM."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu import beside
from gpus.peer import Peer
from gpus.prompts import PREFIX_REQUESTS, PREFIX_TREES, tree, unshared
from gpus.timing import decode_speed, whole_seconds

VLLM = """
import dataclasses, json, pathlib, subprocess, sys, types

__version__ = "made-up"


@dataclasses.dataclass
class SamplingParams:
    temperature: float
    max_tokens: int
    ignore_eos: bool
    detokenize: bool
    output_kind: str


class Engine:
    def __init__(self):
        self.left, self.resets = {}, 0

    def add_request(self, name, prompt, params):
        assert params.temperature == 0 and params.ignore_eos and prompt["prompt_token_ids"]
        self.left[name] = params.max_tokens

    def has_unfinished_requests(self):
        return bool(self.left)

    def step(self):  # two tokens of each, but for the last one
        found = []
        for name, left in list(self.left.items()):
            self.left[name] = max(left - 2, 0)
            output = types.SimpleNamespace(token_ids=[0] * min(left, 2))
            found.append(types.SimpleNamespace(request_id=name, outputs=[output]))
            if not self.left[name]:
                del self.left[name]
        return found


class LLM:
    def __init__(self, model, **settings):
        look = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path))"]
        settings["path"] = json.loads(subprocess.check_output(look))
        (pathlib.Path(__file__).parent / "settings.jsonl").open("a").write(json.dumps(settings) + "\\n")
        assert json.loads((pathlib.Path(model) / "config.json").read_text())["vocab_size"] == 300
        self.llm_engine = Engine()

    def reset_prefix_cache(self):
        self.llm_engine.resets += 1
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a package that has the few names of vLLM that are used."""
    package = tmp_path / "vllm"
    package.mkdir()
    (package / "__init__.py").write_text(VLLM)
    (package / "sampling_params.py").write_text("class RequestOutputKind:\n    DELTA = 'delta'\n")
    return tmp_path


def peer(folder: Path) -> Peer:
    return Peer(
        f"env {shlex.quote(f'PYTHONPATH={folder}')} {shlex.quote(sys.executable)}",
        {"vocab_size": 300, "max_position_embeddings": 512},
    )


def settings(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "vllm" / "settings.jsonl").read_text().splitlines()]


def test_a_peer_runs_the_loads_that_weft_runs(installed: Path) -> None:
    found = peer(installed).decode([1, 4], 20, 7, reading=3)
    assert set(found) == {"version", "start_s", "rows", "prefill_tokens_s"}
    assert found["version"] == "made-up"
    assert set(found["rows"]) == {1, 4}
    assert all(speed > 0 for speed in [*found["rows"].values(), found["prefill_tokens_s"]])
    (asked,) = settings(installed)
    assert (asked["max_num_seqs"], asked["enable_prefix_caching"]) == (4, False)
    assert asked["max_model_len"] == 512, "longer than the model's own is an error of vLLM's"
    assert "enforce_eager" not in asked
    # vLLM looks at models in processes of its own, which must not take files lying about for packages.
    assert str(installed) in asked["path"]
    assert "" not in asked["path"]


@pytest.mark.parametrize("cascade", [False, True])
def test_a_peer_has_its_prefix_cache_where_prefixes_are_shared(installed: Path, cascade: bool) -> None:
    found = peer(installed).shared_prefix(cascade=cascade)
    assert all(found[name]["tokens_s"] > 0 and found[name]["seconds"] > 0 for name in PREFIX_TREES)
    (asked,) = settings(installed)
    assert (asked["enable_prefix_caching"], asked["disable_cascade_attn"]) == (True, not cascade)


def test_a_peer_that_fails_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="vLLM ended with status 1"):
        peer(tmp_path).decode([1], 20, 7, reading=3)


def test_speeds_count_while_all_write() -> None:
    clocks = [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0, 6.0]]
    assert decode_speed(clocks) == (2.0, 1.0)
    assert whole_seconds(clocks) == 6.0


def test_prompts_of_a_tree_share_what_its_levels_say() -> None:
    prompts = tree((50, 30), 300, seed=1)
    assert len(set(prompts)) == PREFIX_REQUESTS
    assert len({ids[:50] for ids in prompts}) == 1
    assert len({ids[:80] for ids in prompts}) == 4
    assert prompts == tree((50, 30), 300, seed=1)
    assert len(set(unshared(5, 40, 300, seed=1))) == 5


def test_ratios_are_of_loads_that_both_ran() -> None:
    row = {"tokens_s": 30.0, "seconds": 2.0}
    ours: dict[str, Any] = {
        "decode": {"rows": {1: {"tokens_s": 12.0}}, "prefill_tokens_s": 90.0},
        "shared-prefix": {"one prefix": {"shared": row, "plain": {}}},
    }
    theirs: dict[str, Any] = {
        "decode": {"rows": {1: 10.0}, "prefill_tokens_s": 100.0},
        "shared-prefix": {"version": "made-up", "one prefix": {"tokens_s": 20.0, "seconds": 3.0}},
    }
    decode = {"decode": {1: 1.2}, "prefill": 0.9}
    shared = {"shared-prefix": {"one prefix": {"tokens_s": 1.5, "with_reading": 1.5}}}
    assert beside(ours, theirs) == decode | shared
    assert beside(ours, {"decode": theirs["decode"]}) == decode
    assert beside({}, theirs) == {}
