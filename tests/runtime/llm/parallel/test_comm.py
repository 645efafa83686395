"""Ranks let go of each other."""

from __future__ import annotations

import threading

import torch

from weft.runtime.llm.parallel.comm import ALONE, Collective
from weft.runtime.llm.parallel.shard import Shard


class Slow:
    """A backend that takes its time to give everything back, as NCCL does while there are graphs."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = threading.Event()
        self.ended = threading.Event()

    def abort(self) -> None:
        self.begun += 1
        assert self.may_end.wait(60)
        self.ended.set()


def test_nobody_waits_for_a_backend_that_does_not_end() -> None:
    comm, backend = Collective(Shard(0, 2), torch.device("cpu")), Slow()
    comm._backend = backend
    comm.abort(0.0)
    assert not backend.ended.is_set()
    comm.abort(0.01)
    assert not backend.ended.is_set()
    backend.may_end.set()
    comm.abort(60.0)
    assert backend.ended.is_set()
    assert backend.begun == 1


def test_who_never_connected_has_nobody_to_let_go() -> None:
    began = threading.active_count()
    Collective(Shard(1, 2), torch.device("cpu")).abort(60.0)
    assert threading.active_count() == began


def test_one_who_is_alone_says_all_to_itself() -> None:
    x = torch.arange(6.0).view(2, 3)
    assert ALONE.sum(x) is x
    assert ALONE.join(x, 3) is x
    assert ALONE.broadcast(x, 2) is x
    assert ALONE.least(7) == 7
