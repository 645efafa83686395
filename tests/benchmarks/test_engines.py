"""An engine of `weft bench engine` in another Python: a made-up vLLM."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from engine import parse
from engines.process import Arm

VLLM = """
import json, os, pathlib, subprocess, sys, types


class SamplingParams:
    def __init__(self, **settings):
        self.__dict__.update(settings)


class LLM:
    def __init__(self, model, **settings):
        look = "import importlib.util, json; print(json.dumps(importlib.util.find_spec('kernels') is None))"
        found = {
            "model": json.loads((pathlib.Path(model) / "config.json").read_text()),
            "one process": os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0",
            "alone": json.loads(subprocess.check_output([sys.executable, "-c", look])),
            "paths": sys.path,
            **settings,
        }
        (pathlib.Path(__file__).parent / "found.json").write_text(json.dumps(found))

    def generate(self, prompts, params, use_tqdm):
        print("what a library prints is no answer")
        assert all(one.ignore_eos and one.temperature == 0 for one in params)
        tokens = [prompt["prompt_token_ids"][:1] * one.max_tokens for prompt, one in zip(prompts, params)]
        outputs = [types.SimpleNamespace(token_ids=ids) for ids in tokens]
        return [types.SimpleNamespace(outputs=[output]) for output in outputs]
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a package that has the few names of vLLM that are used."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(VLLM)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 300}))
    return tmp_path


def test_an_engine_runs_in_a_python_of_its_own(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmarks = next(entry for entry in sys.path if entry.endswith("/benchmarks"))
    monkeypatch.setenv("PYTHONPATH", benchmarks)  # as `weft bench` sets it
    monkeypatch.chdir(benchmarks)
    python = ["env", f"PYTHONPATH={installed}", sys.executable]
    with Arm("vllm", installed, 1, python) as arm:
        assert arm.run([[5, 6], [7]], [2, 3]).tokens == [[5, 5], [7, 7, 7]]
        assert arm.run([[8]], [1]).tokens == [[8]]
    found = json.loads((installed / "vllm" / "found.json").read_text())
    assert found["model"] == {"vocab_size": 300}
    assert found["dtype"] == "float32"
    assert found["one process"], "what is stopped between turns is one process"
    # benchmarks/kernels.py must not be taken for the package of that name, neither here nor in a child.
    assert found["alone"]
    assert benchmarks not in found["paths"]


def test_an_engine_that_cannot_be_loaded_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="vllm ended with status 1"):
        Arm("vllm", tmp_path, 1, ["env", f"PYTHONPATH={tmp_path}", sys.executable])


def test_vllm_is_run_if_its_python_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = shlex.join(["env", "A=1", "python"])
    monkeypatch.setattr(sys, "argv", ["engine", "--engines", "transformers", "--vllm", command])
    assert parse().engines == ["weft", "transformers", "vllm"]
    monkeypatch.setattr(sys, "argv", ["engine"])
    assert "vllm" not in parse().engines
    monkeypatch.setattr(sys, "argv", ["engine", "--engines", "vllm"])
    with pytest.raises(SystemExit):
        parse()
    assert "--vllm must say which Python" in capsys.readouterr().err
