"""The arms of the optimizer's benchmark: every pass is measured alone, left out, and in its group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optimizer
import pytest
from workloads.baselines import Gathered, Sequential

from weft import Client
from weft.graph.passes import OPTIONAL


def on(off: list[str]) -> set[str]:
    return set(OPTIONAL) - set(off)


def test_the_ablation_has_each_pass_alone_and_left_out_and_both_groups() -> None:
    arms = {name: on(off) for name, off in optimizer.passes_off(ablation=True).items()}
    assert arms["weft"] == set(OPTIONAL)
    assert arms["none"] == set()
    for name in OPTIONAL:
        assert arms[f"only {name}"] == {name}
        assert arms[f"without {name}"] == set(OPTIONAL) - {name}
    assert arms["parallel only"] | arms["pipeline only"] == set(OPTIONAL)
    assert not arms["parallel only"] & arms["pipeline only"]


def test_baselines_run_with_all_passes_on_their_servers() -> None:
    arms = optimizer.passes_off(ablation=False)
    assert list(arms) == [*optimizer.BASELINES, "weft", "none"]
    assert not any(arms[name] for name in optimizer.BASELINES)


@pytest.mark.parametrize("workload", optimizer.WORKLOADS)
def test_every_workload_can_be_run_by_every_arm(workload: str) -> None:
    client = Client("unix:/nowhere")
    arms = ("a modules", "b gathered", "weft")
    found: Mapping[str, Any] = optimizer.arms_of(workload, dict.fromkeys(arms, client))
    assert [type(found[name].__self__) for name in arms[:2]] == [Sequential, Gathered]
    assert len(optimizer.calls_of(workload, 0)) >= optimizer.WARM_UP + 20
