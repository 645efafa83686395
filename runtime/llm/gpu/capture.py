"""Recording what is started on a device, to be started again by one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from weft.runtime.cuda import CUDA

from .device_model import DeviceModel

__all__ = ["capture"]

_WARM_UPS: Final = 2  # so that everything is compiled and allocated before it is captured


def capture(model: DeviceModel, step: Callable[[], None], memory: Any) -> torch.cuda.CUDAGraph:
    """A CUDA graph of `step`, which waits for nothing on the device; graphs of one `memory` share theirs."""
    device = model.device
    stream: Any = CUDA.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Where ranks share the model, NCCL has a thread that looks at the device while this one captures.
    mode = "thread_local" if model.ranks > 1 else "global"
    with torch.cuda.graph(graph, pool=memory, stream=stream, capture_error_mode=mode):
        step()
    return graph
