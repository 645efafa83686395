"""Parts of a model compute together what the whole does: ranks as threads, each with its part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.runtime.llm.config import read_config
from weft.runtime.llm.errors import ModelError
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.loader import choose_devices, load_weights
from weft.runtime.llm.model import load_model
from weft.runtime.llm.parallel.comm import ALONE, Communicator
from weft.runtime.llm.parallel.shard import Shard
from weft.runtime.llm.runner import ModelRunner
from weft.runtime.llm.sequence import Sequence as Tokens

CPU = torch.device("cpu")
PARTS = {"llama_mha_tied": 4}
"""Ranks, where they are not 2."""
ONE_KV_HEAD = "llama_mqa_bias"


@dataclass
class Meeting:
    """Where the ranks lay down their tensors."""

    size: int
    tensors: dict[int, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=30)


class Thread(Communicator):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.shard = Shard(rank, meeting.size)
        self.meeting = meeting

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._all(x)).sum(0)

    def join(self, logits: torch.Tensor, vocab: int) -> torch.Tensor:
        return torch.cat(self._all(logits), dim=1)[:, :vocab]

    def broadcast(self, ids: torch.Tensor | None, count: int) -> torch.Tensor:
        return self._all(torch.empty(count, dtype=torch.int64) if ids is None else ids)[0]

    def least(self, number: int) -> int:
        return int(torch.stack(self._all(torch.tensor(number))).min())

    def _all(self, own: torch.Tensor) -> list[torch.Tensor]:
        self.meeting.barrier.wait()
        self.meeting.tensors[self.shard.rank] = own
        self.meeting.barrier.wait()
        return [self.meeting.tensors[rank] for rank in range(self.meeting.size)]


def part(folder: Path, comm: Communicator) -> GpuModel:
    config = read_config(folder)
    weights = load_weights(folder, config, dtype=torch.float32, device=CPU, shard=comm.shard)
    return GpuModel(comm.shard.config(config), weights, name="m", comm=comm)


def logits(model: GpuModel) -> torch.Tensor:
    """Of a prompt and, beside another prompt, of its continuation."""
    slots = np.random.default_rng(0).permutation(100)
    first, second = (Tokens(np.arange(3 + shift, 43 + shift), 40) for shift in (0, 9))
    first.extend(slots[:40])
    second.extend(slots[40:80])
    runner = ModelRunner(model, 100)
    found = [runner.run([(first, 30)], [3, 29])]
    first.computed = 30
    found.append(runner.run([(first, 10), (second, 40)], list(range(50))))
    assert runner.run([(first, 10)], []).shape == (0, model.config.vocab_size)
    return torch.cat(found)


def together(folder: Path, size: int) -> Sequence[torch.Tensor]:
    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as ranks:
        models = [part(folder, Thread(rank, meeting)) for rank in range(size)]
        return list(ranks.map(logits, models))


def test_the_parts_compute_what_the_whole_does(family: str, make_checkpoint: Callable[[str], Any]) -> None:
    folder = make_checkpoint(family).folder
    if family == ONE_KV_HEAD:
        with pytest.raises(ModelError, match="does not divide this model's num_key_value_heads 1;"):
            part(folder, Thread(0, Meeting(2)))
        return
    whole = logits(part(folder, ALONE))
    assert whole.std() > 0.5
    for found in together(folder, PARTS.get(family, 2)):
        torch.testing.assert_close(found, whole, atol=2e-4, rtol=1e-4)


def test_a_vocabulary_need_not_come_out_even(make_checkpoint: Callable[[str], Any], tmp_path: Path) -> None:
    checkpoint = make_checkpoint("llama")
    tensors = load_file(checkpoint.folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:157].contiguous()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = (checkpoint.folder / "config.json").read_text().replace('"vocab_size": 160', '"vocab_size": 157')
    (tmp_path / "config.json").write_text(config)
    whole = logits(part(tmp_path, ALONE))
    assert whole.shape[1] == 157
    for found in together(tmp_path, 2):
        torch.testing.assert_close(found, whole, atol=2e-4, rtol=1e-4)


def test_a_part_is_a_fraction_of_the_weights(make_checkpoint: Callable[[str], Any]) -> None:
    folder = make_checkpoint("qwen3").folder

    def sizes(shard: Shard) -> list[int]:
        weights = load_weights(folder, read_config(folder), dtype=torch.float32, device=CPU, shard=shard)
        layer = next(weights.layers)
        matrices = (layer.qkv, layer.out, layer.gate_up, layer.down, weights.head)
        assert all(matrix.is_contiguous() for matrix in matrices)
        return [matrix.nbytes for matrix in matrices]

    assert [2 * size for size in sizes(Shard(1, 2))] == sizes(Shard())


def test_a_tensor_of_another_shape_is_refused_by_every_rank(
    make_checkpoint: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = make_checkpoint("llama").folder
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name][:, :48].contiguous()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelError, match=r"has shape \[64, 48\]; config.json asks for \[64, 96\]"):
        part(tmp_path, Thread(1, Meeting(2)))


def test_a_model_that_cannot_be_cut_starts_no_process(
    make_checkpoint: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(ModelError, match="tensor_parallel = 3 does not divide"):
        load_model(make_checkpoint("llama").folder, device="cpu", tensor_parallel=3)


def test_ranks_take_the_gpus_from_the_first_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("weft.runtime.llm.loader.choose_device", torch.device)
    names = partial(map, str)
    assert list(names(choose_devices("auto", 2))) == ["cuda:0", "cuda:1"]
    assert list(names(choose_devices("auto:1", 2))) == ["cuda:2", "cuda:3"]
    assert list(names(choose_devices("auto:2", 2))) == ["cuda:0", "cuda:1"]
    assert list(names(choose_devices("cuda:1", 3))) == ["cuda:1", "cuda:2", "cuda:3"]
    assert list(names(choose_devices("cpu", 3))) == ["cpu"] * 3
    for device, count in (("cuda:3", 2), ("auto", 5)):
        with pytest.raises(ModelError, match=f"tensor_parallel = {count} takes .*; this machine has 4"):
            choose_devices(device, count)
