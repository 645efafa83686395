"""Small random checkpoints of families that weft has no code for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from ..checkpoints import Checkpoint, make
from .loading import FAMILIES


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family in turn."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkpoint]:
    """A random checkpoint by the name of its family, and fields of its configuration; made once."""
    made: dict[str, Checkpoint] = {}

    def find(name: str, **fields: Any) -> Checkpoint:
        key = f"{name} {fields}"
        if key not in made:
            kind, own = FAMILIES[name]
            made[key] = make(kind, own | fields, tmp_path_factory.mktemp(name), attention="eager")
        return made[key]

    return find
