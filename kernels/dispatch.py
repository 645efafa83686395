"""The one place that chooses between a kernel's two implementations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Generic, Literal, ParamSpec, TypeVar

import torch

__all__ = ["Kernel", "Side", "kernel"]

Side = Literal["torch", "triton"]

P = ParamSpec("P")
R = TypeVar("R")


class Kernel(Generic[P, R]):
    """A torch function, its reference, that runs as a Triton kernel on CUDA.

    The Triton function has the same name and signature and lives in `weft.kernels.gpu`, in the module of
    the same name as the reference's; it is imported at the first use on CUDA, so that nothing else needs
    Triton.
    """

    def __init__(self, reference: Callable[P, R]) -> None:
        functools.update_wrapper(self, reference)
        self.reference = reference

    @functools.cached_property
    def triton(self) -> Callable[P, R]:
        """The Triton implementation; raises `ImportError` where Triton is not installed."""
        module = import_module(self.reference.__module__.replace("weft.kernels.", "weft.kernels.gpu."))
        implementation: Callable[P, R] = getattr(module, self.reference.__name__)
        return implementation

    def on(self, side: Side) -> Callable[P, R]:
        """One of the two implementations."""
        return self.triton if side == "triton" else self.reference

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run where the first argument, a tensor, lies."""
        first = args[0]
        on_gpu = isinstance(first, torch.Tensor) and first.is_cuda
        return (self.triton if on_gpu else self.reference)(*args, **kwargs)


def kernel(reference: Callable[P, R]) -> Kernel[P, R]:
    """Declare `reference`, whose first argument is a tensor, as the torch side of a kernel."""
    return Kernel(reference)
