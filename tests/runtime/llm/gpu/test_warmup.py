"""What a step may need is compiled before requests wait for it."""

from __future__ import annotations

from bisect import bisect_left

import pytest
import torch

from weft.kernels.experts import SIZES
from weft.runtime.kv.pool import KVPool
from weft.runtime.llm.config import Experts, read_config
from weft.runtime.llm.gpu.device_model import Forward
from weft.runtime.llm.gpu.feed_forward import warm_sizes
from weft.runtime.llm.gpu.model import GpuModel
from weft.runtime.llm.gpu.table import Pages
from weft.runtime.llm.gpu.warmup import warm_up
from weft.runtime.llm.loader import load_weights

from ..checkpoints import make

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("count", "chosen", "shared"), [(128, 8, 0), (8, 2, 0), (60, 4, 4), (4, 3, 0), (1, 1, 0)]
)
def test_every_way_to_tile_experts_is_run(count: int, chosen: int, shared: int) -> None:
    experts = Experts(frozenset((0,)), count, chosen, 16, normalized=True, shared=shared)
    each = [tokens * (chosen + shared) / (count + shared) for tokens in warm_sizes(experts)]
    assert [bisect_left(SIZES, one) for one in each] == list(range(len(SIZES) + 1))


@pytest.mark.parametrize("width", [2048, 100])
def test_steps_of_these_sizes_are_run(
    width: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_hidden_layers": 1}
    folder = make("Qwen3MoeConfig", fields, tmp_path_factory.mktemp("model")).folder
    config = read_config(folder)
    model = GpuModel(config, load_weights(folder, config, dtype=torch.float32, device=CPU), name="m")
    sizes: list[int] = []
    compute = model.compute

    def counted(step: Forward, pool: KVPool) -> torch.Tensor:
        sizes.append(len(step.ids))
        return compute(step, pool)

    monkeypatch.setattr(model, "compute", counted)
    warm_up(model, model.allocate_pool(4), Pages(2, width, CPU))
    assert {min(size, width + 1) for size in model.warm_sizes} <= set(sizes)
    assert max(sizes) <= width + 1
