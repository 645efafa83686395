"""Small random checkpoints of every family, and what transformers generates with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

VOCAB = 160
CONTEXT = 2048
EOS = [2, *range(10, VOCAB, 18)]

_SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "llama_mha_tied": ("LlamaConfig", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama_mqa_bias": (
        "LlamaConfig",
        {"num_key_value_heads": 1, "head_dim": 24, "attention_bias": True, "mlp_bias": True},
    ),
    "llama3_rope": ("LlamaConfig", {"rope_parameters": _LLAMA3}),
    "llama_yarn": ("LlamaConfig", {"rope_parameters": _YARN}),
    "llama_linear": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "mistral_sliding": ("MistralConfig", {"sliding_window": 16}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2_sliding": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": False}),
    "qwen3_bias_tied": ("Qwen3Config", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
}


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    model: transformers.PreTrainedModel
    known: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = field(default_factory=dict)

    def greedy(self, ids: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
        """Greedy tokens of transformers, without the end of sequence; computed once."""
        if (ids, max_tokens) not in self.known:
            self.known[ids, max_tokens] = self._generate(ids, max_tokens)
        return self.known[ids, max_tokens]

    def _generate(self, ids: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
        out = self.model.generate(  # type: ignore[operator]  # a mixin that is untyped
            torch.tensor([ids]),
            max_new_tokens=max_tokens,
            do_sample=False,
            attention_mask=torch.ones(1, len(ids)),
        )
        new = out[0, len(ids) :].tolist()
        return tuple(new[:-1] if new[-1] in EOS else new)


@pytest.fixture(scope="session", params=list(_CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    """The name of each checkpoint in turn."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """A random checkpoint by its name, made once."""
    made: dict[str, Checkpoint] = {}

    def make(name: str) -> Checkpoint:
        if name not in made:
            kind, fields = _CONFIGS[name]
            config = getattr(transformers, kind)(**(_SMALL | fields))
            torch.manual_seed(len(name))
            model = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # untyped there
            model = model.float().eval()
            for parameter in model.parameters():  # norms and biases too, which start as ones and zeros
                if parameter.dim() == 1:
                    torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            made[name] = Checkpoint(folder, model)
        return made[name]

    return make
