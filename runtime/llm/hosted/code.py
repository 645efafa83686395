"""A causal language model of transformers, as a function from a ragged batch in one row to logits."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any, Final

import torch

from .interface import PAGED, PROBE, Attend, Call, LayerShape, Turns, register, serving
from .probe import Probe, RefusedError

__all__ = ["HostedCode"]

_PROBED: Final = 12  # tokens


class HostedCode:
    """A model's modelling code with its weights, which attends through weft."""

    def __init__(self, module: Any, context_length: int) -> None:
        """Observe what the code asks for. `module` is a `PreTrainedModel` on its device, in `eval` mode.

        Raises `RefusedError` for what weft's attention cannot do, and what the code raises.
        """
        register()
        self.device: torch.device = module.device
        self._module = module
        self._keeps = "logits_to_keep" in inspect.signature(module.forward).parameters
        self._calls, self.vocab_size = self._observe(context_length)
        module.set_attn_implementation(PAGED)

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        """What each attention layer asks for, in the order of a forward pass."""
        return tuple(call.layer for call in self._calls)

    @torch.inference_mode()
    def run(
        self, ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor | None, attend: Attend
    ) -> torch.Tensor:
        """Float32 logits [rows, vocab] after the tokens `wanted` (int64 [rows]) of `ids`; None: after all.

        `ids` and `positions` are int64 [tokens]; whose tokens they are is the affair of `attend`.
        """
        keep = {"logits_to_keep": wanted} if self._keeps and wanted is not None else {}
        with serving(Turns(self._calls, attend)):
            logits = self._logits(ids, positions, **keep)
        return logits.float() if wanted is None or keep else logits[wanted].float()

    @torch.inference_mode()
    def eager(self, ids: torch.Tensor) -> torch.Tensor:
        """Float32 logits [tokens, vocab] of one whole prompt by attention of the code's own."""
        self._module.set_attn_implementation("eager")
        try:
            return self._logits(ids, torch.arange(len(ids), device=ids.device)).float()
        finally:
            self._module.set_attn_implementation(PAGED)

    def _logits(self, ids: torch.Tensor, positions: torch.Tensor, **keep: torch.Tensor) -> torch.Tensor:
        out = self._module(input_ids=ids[None], position_ids=positions[None], use_cache=False, **keep)
        logits: torch.Tensor = out.logits[0]
        return logits

    @torch.inference_mode()
    def _observe(self, context_length: int) -> tuple[tuple[Call, ...], int]:
        """The calls of one forward pass of a short prompt, and the number of logits."""
        self._module.set_attn_implementation(PROBE)
        positions = torch.arange(min(_PROBED, context_length), device=self.device)
        probe = Probe(context_length)
        with serving(probe):
            logits = self._logits(positions, positions)
        if not probe.calls:
            raise RefusedError(
                f"attention that does not go through the attention interface of transformers in version "
                f"{version('transformers')}"
            )
        return tuple(probe.calls), logits.shape[-1]
