"""A growing run and its worker, for tests of what such a run withdraws."""

from __future__ import annotations

from typing import Any

import pytest

from weft.graph.ops.primitive import Decode

from ..test_run_stream import Conversation
from .withdrawals import growing


@pytest.fixture
async def talk(stage: Any) -> Conversation:
    """A growing run that may call a tool here."""
    return await growing(stage, tools=["note"])


@pytest.fixture
def worker(stage: Any) -> Any:
    """A worker that writes once its gate is opened."""
    worker = stage.workers["w1"]
    worker.gated = {Decode}
    return worker
