"""`weft bench gpu --loads codes`, on a CPU and a model that is small enough for it."""

from __future__ import annotations

import torch
from gpus.codes import by_both_codes


def test_both_codes_are_measured_in_turn() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = by_both_codes("tiny-llama", [1, 2], prompt=12, output=6, device="cpu")
    finally:
        torch.set_num_threads(before)
    assert set(found["load_s"]) == {"weft", "transformers"}
    assert set(found["tokens_s"]) == {
        f"{code}, graphs {graphs}" for code in ("weft", "transformers") for graphs in ("on", "off")
    }
    for rounds in found["tokens_s"].values():
        assert [sorted(speeds) for speeds in rounds] == [[1, 2], [1, 2]]
        assert min(min(speeds.values()) for speeds in rounds) > 0
