"""Sharing a model among processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..gpu.model import GpuModel
from .assignment import Build
from .team import Team

__all__ = ["share"]


def share(build: Build, devices: Sequence[torch.device]) -> GpuModel:
    """A model of which each device's process has the part that `build` makes; this process has the first.

    The parts are made at the same time. Raises what `build` raises here, and ParallelError for the others.
    """
    team = Team(build, devices)
    try:
        model = build(devices[0], team.comm)
        team.gather()
    except BaseException:
        team.close()
        raise
    model.team = team
    return model
