"""The kernels' tests run on torch and on Triton, which `tests/conftest.py` sees to without a GPU, too."""

from __future__ import annotations

import pytest
import torch

from weft.kernels.dispatch import Side


@pytest.fixture(params=["torch", "triton"])
def side(request: pytest.FixtureRequest) -> Side:
    """The implementation to test."""
    return "triton" if request.param == "triton" else "torch"


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an implementation allocates uninitialized is NaN, or -1, until it is written."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.fill_(torch.nan if tensor.is_floating_point() else -1)

    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: poison(empty(*args, **kwargs)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: poison(empty_like(*args, **kwargs)))
