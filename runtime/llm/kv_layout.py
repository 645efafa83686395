"""By which engines know that the KV of one is that of another."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Final

from .model import Model

__all__ = ["kv_layout"]

_HEADER: Final = 1 << 16  # bytes at the beginning of a file: what its tensors are
_SAMPLES: Final = 16  # of each file's content, evenly spread
_SAMPLE: Final = 4096  # bytes


def kv_layout(folder: Path, model: Model) -> str:
    """A digest of a checkpoint's configuration, samples of its weights, and how `model` stores KV.

    Models that differ in any of these have different ones. Weights that differ nowhere in the samples, nor
    in the sizes of their files, count as equal.
    """
    digest = blake2b(digest_size=16)
    digest.update(f"{type(model).__name__} {model.numbers} {model.kv_bytes_per_token}\0".encode())
    digest.update((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"\0{path.name} {size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_HEADER))
            for sample in range(_SAMPLES):
                file.seek(sample * size // _SAMPLES)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
