"""A further rank of a model that several processes share.

Over its line to rank 0 come an `Assignment`, then, once all ranks have their parts, the file by which they
find each other, and then orders: a `Reservation` before the steps of an engine. It says None when it has its
part; whatever else it says is why it ends.
"""

from __future__ import annotations

import os
import threading
import traceback
from multiprocessing.connection import Connection
from typing import NoReturn

import torch

from ..gpu.executor import Executor
from ..gpu.model import GpuModel
from ..gpu.steps import Census, Reservation, Step
from .assignment import Assignment
from .comm import Collective

__all__ = ["follow"]


def follow(line: Connection) -> int:
    """Do as rank 0 says until it hangs up; returns the exit status."""
    threading.Thread(target=_hold_life_line, name="weft-life-line", daemon=True).start()
    try:
        assignment: Assignment = line.recv()
        device = assignment.device
        torch.set_num_threads(assignment.threads)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        comm = Collective(assignment.shard, device)
        model = assignment.build(device, comm)
        line.send(None)
        comm.connect(line.recv())
        _obey(line, model)
    except EOFError:
        return 0
    except Exception as error:
        traceback.print_exc()
        line.send(f"{type(error).__name__}: {error}")
        return 1


def _obey(line: Connection, model: GpuModel) -> NoReturn:
    executor: Executor | None = None
    while True:
        order: Census | Reservation | Step = line.recv()
        match order:
            case Census():
                executor = None
                model.free_memory()
            case Reservation():
                executor = None  # its memory is free again before the next one needs it
                executor = Executor(model, order)
            case _:
                assert executor is not None, "a step came before anything was reserved"
                executor.run(order)


def _hold_life_line() -> None:
    """End with rank 0, whatever this process waits for."""
    while os.read(0, 4096):
        pass
    os._exit(1)
