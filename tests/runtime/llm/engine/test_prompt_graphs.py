"""Steps that read prompts through graphs: what is captured on a GPU is only repeated here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from weft.runtime.llm.config import read_config
from weft.runtime.llm.gpu import prompt_graphs
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.gpu.prompt_graphs import PromptGraphs, sizes
from weft.runtime.llm.gpu.runner import GpuRunner
from weft.runtime.llm.loader import load_weights
from weft.runtime.llm.runner import Work
from weft.runtime.llm.sequence import Sequence

SLOTS = 2000


@dataclass
class Repeated:
    """In place of a CUDA graph."""

    step: Callable[[], None]
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        self.step()

    def reset(self) -> None:
        pass


class Graphs:
    """A runner with such graphs."""

    def __init__(self, model: GpuModel, monkeypatch: pytest.MonkeyPatch, most: int = 512) -> None:
        self.made: list[Repeated] = []
        monkeypatch.setattr(prompt_graphs, "capture", self._capture)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        self.runner = GpuRunner(model, SLOTS)
        executor = self.runner._executor
        executor._prompt_graphs = PromptGraphs(model, executor._whole, executor._pages, most)

    def _capture(self, model: GpuModel, step: Callable[[], None], memory: None) -> Repeated:
        self.made.append(Repeated(step))
        return self.made[-1]

    @property
    def replays(self) -> int:
        return sum(each.replays for each in self.made)


@pytest.fixture
def model(make_checkpoint: Callable[[str], Any]) -> GpuModel:
    folder = make_checkpoint("qwen3").folder
    config = read_config(folder)
    weights = load_weights(folder, config, dtype=torch.float32, device=torch.device("cpu"))
    return GpuModel(config, weights, name="m")


def spans(sizes: list[tuple[int, int]], seed: int = 0) -> list[Work]:
    """Sequences, each of so many computed tokens and so many that are to be."""
    rng = np.random.default_rng(seed)
    slots = rng.permutation(SLOTS)
    work: list[Work] = []
    for computed, new in sizes:
        length = computed + new
        sequence = Sequence(rng.integers(3, 60, length), length)
        sequence.extend(slots[:length])
        slots = slots[length:]
        work.append((sequence, new))
    return work


def prepare(runner: GpuRunner, work: list[Work]) -> None:
    """Compute what comes before."""
    for sequence, count in work:
        if before := sequence.length - count:
            runner.run([(sequence, before)], [])
            sequence.computed = before


def compute(runner: GpuRunner, work: list[Work], rows: list[int]) -> torch.Tensor:
    """The logits of `rows`, once what comes before has been computed."""
    prepare(runner, work)
    return runner.run(work, rows).clone()


@pytest.mark.parametrize(
    "sizes",
    [
        [(0, 192)],
        [(30, 150)],
        [(0, 60), (25, 70), (3, 61)],
        [(40, 1), (0, 140), (17, 1), (20, 30), (9, 1)],
        [(2, 1)] * 50 + [(0, 130)],
        [(0, 5)] * 60,
    ],
    ids=["whole", "chunk", "several", "beside decodes", "beside many decodes", "many"],
)
def test_a_step_computes_the_same_by_a_graph(
    sizes: list[tuple[int, int]], model: GpuModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = np.cumsum([new for _, new in sizes])
    rows = [int(end) - 1 for end in ends]
    plain = compute(GpuRunner(model, SLOTS), spans(sizes), rows)
    graphs, work = Graphs(model, monkeypatch), spans(sizes)
    prepare(graphs.runner, work)
    before = graphs.replays
    found = graphs.runner.run(work, rows)
    assert graphs.replays == before + 1
    torch.testing.assert_close(found, plain, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([(0, 190)], range(100)),
        ([(0, 4)] * 70, range(3)),
        ([(0, 400)], range(1)),
    ],
    ids=["many logits", "many sequences", "far below the next size"],
)
def test_what_no_graph_takes_is_computed_without(
    sizes: list[tuple[int, int]], wanted: range, model: GpuModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = compute(GpuRunner(model, SLOTS), spans(sizes), list(wanted))
    monkeypatch.setattr(prompt_graphs, "_MOST", 256)
    graphs = Graphs(model, monkeypatch)
    assert torch.equal(compute(graphs.runner, spans(sizes), list(wanted)), plain)
    assert graphs.replays == 0


def test_graphs_are_captured_anew_for_another_table(model: GpuModel, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(model, monkeypatch)
    made, few = len(graphs.made), [(5, 150), (3, 40)]
    plain = compute(GpuRunner(model, SLOTS), spans(few), [149, 189])
    many = spans([(0, 1)] * 300)
    graphs.runner.run(many, [])  # more sequences than the table has rows
    assert torch.allclose(compute(graphs.runner, spans(few), [149, 189]), plain, atol=2e-4)
    assert len(graphs.made) == 2 * made


def test_sizes_leave_few_tokens_idle() -> None:
    assert sizes(2048) == [*range(64, 1025, 64), 2048]
    assert sizes(512) == [*range(64, 513, 64)]
    assert sizes(300) == [64, 128, 192, 256, 300]
    assert sizes(40) == []
    assert sizes(16384) == [*range(64, 1025, 64)]


def test_without_memory_for_graphs_steps_are_computed_all_the_same(
    model: GpuModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when it is short only once the table has grown."""
    graphs, few = Graphs(model, monkeypatch), [(5, 150), (3, 40)]
    assert graphs.made
    plain = compute(GpuRunner(model, SLOTS), spans(few), [149, 189])

    def full(*_: object) -> Repeated:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(prompt_graphs, "capture", full)
    graphs.runner.run(spans([(0, 1)] * 300), [])
    for _ in range(2):
        assert torch.equal(compute(graphs.runner, spans(few), [149, 189]), plain)
    assert caplog.text.count("no memory for CUDA graphs") == 1
    assert graphs.replays == 0
