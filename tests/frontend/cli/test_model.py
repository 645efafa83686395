from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from weft.frontend.cli.main import app


def test_the_smoke_run_learns_and_leaves_a_model_for_transformers(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["model", "train", str(tmp_path), "--smoke", "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "holds the model" in result.output
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = tokenizer("Passages:\n[1] The budget of Project Keltor is 400 crowns.", return_tensors="pt")[
        "input_ids"
    ]
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    assert loss < 7.8  # 8.3 before any training


def test_eval_names_the_tasks_that_there_are() -> None:
    result = CliRunner().invoke(app, ["model", "eval", "--only", "nothing"])
    assert result.exit_code == 2
    assert "alias, 4-16 passages" in result.output


def test_eval_counts_right_replies_of_the_bundled_model() -> None:
    result = CliRunner().invoke(app, ["model", "eval", "--only", "relevance", "--count", "5"])
    assert result.output.split()[-1] == "100.0"


def test_eval_puts_prompts_in_other_ways() -> None:
    result = CliRunner().invoke(app, ["model", "eval", "--perturbed", "--only", "relevance", "--count", "2"])
    names = [line.rsplit(maxsplit=1)[0].strip() for line in result.output.splitlines()]
    assert "none" in names
    assert "instruction in new words" in names
    assert "bullets" not in names  # there are none in these prompts
