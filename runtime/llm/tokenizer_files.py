"""Reads what a Hugging Face model folder says about its tokenizer, spread over up to five JSON files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ModelError

__all__ = ["TokenizerError", "TokenizerFiles", "read_object", "read_tokenizer_files", "token_text"]

_SPECIAL_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TokenizerError(ModelError):
    """A tokenizer cannot be loaded or used; the message says what is missing and the remedy."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The tokenizer-related contents of a model folder."""

    spec: dict[str, Any]
    """The parsed tokenizer.json."""
    special_texts: frozenset[str]
    """Texts that the configuration calls special tokens."""
    bos: str | int | None
    """The beginning-of-sequence token, as text or id."""
    eos: frozenset[str | int]
    """Every end-of-sequence token that any file names, as texts and ids."""
    adds_bos: bool | None
    """What tokenizer_config.json says about adding a BOS to prompts; None: tokenizer.json decides."""


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read tokenizer.json and its companions from `folder`.

    Raises:
        TokenizerError: `folder` or its tokenizer.json is missing, or a file holds no JSON object.
    """
    spec = _read_spec(folder)
    config = read_object(folder / "special_tokens_map.json") | read_object(folder / "tokenizer_config.json")
    models = [read_object(folder / name) for name in ("generation_config.json", "config.json")]
    eos: set[str | int] = {text} if (text := token_text(config.get("eos_token"))) else set()
    for model in models:
        eos.update(_ids(model, "eos_token_id"))
    bos_ids = [token_id for model in models for token_id in _ids(model, "bos_token_id")]
    decides = "add_bos_token" in config or "add_eos_token" in config
    return TokenizerFiles(
        spec=spec,
        special_texts=frozenset(_special_texts(config)),
        bos=token_text(config.get("bos_token")) or next(iter(bos_ids), None),
        eos=frozenset(eos),
        adds_bos=bool(config.get("add_bos_token", False)) if decides else None,
    )


def _read_spec(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise TokenizerError(f"no model folder at {str(folder)!r}")
    path = folder / "tokenizer.json"
    if path.is_file():
        return read_object(path)
    if (folder / "tokenizer.model").is_file():
        raise TokenizerError(
            f"{str(folder)!r} holds only a SentencePiece tokenizer.model; convert it once, with transformers "
            "and sentencepiece installed: AutoTokenizer.from_pretrained(folder).save_pretrained(folder) "
            "writes the tokenizer.json that is missing"
        )
    raise TokenizerError(f"{str(folder)!r} has no tokenizer.json; copy it from where the model was published")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that does not exist reads as an empty one."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise TokenizerError(f"{str(path)!r} is not valid JSON: {error}; fetch the file again") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{str(path)!r} must hold a JSON object, not {type(value).__name__}")
    return value


def token_text(value: object) -> str | None:
    """Read a token that is written as text or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _ids(model: dict[str, Any], key: str) -> list[int]:
    """Read one id or a list of ids from a model configuration, looking into `text_config` too."""
    nested = model.get("text_config")
    value = model.get(key, nested.get(key) if isinstance(nested, dict) else None)
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int)]


def _special_texts(config: dict[str, Any]) -> set[str]:
    listed = [*(config.get("additional_special_tokens") or []), *(config.get(key) for key in _SPECIAL_KEYS)]
    decoder = config.get("added_tokens_decoder") or {}
    listed += [token for token in decoder.values() if token.get("special")]
    return {text for item in listed if (text := token_text(item))}
