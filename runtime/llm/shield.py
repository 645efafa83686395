"""What users spell like control tokens, kept from being read as such when it goes through a chat template."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Final

__all__ = ["Shield"]

_CACHED: Final = 64


class Shield:
    """Stands between control tokens that somebody spells and the template: marks in their place."""

    def __init__(self, control_tokens: Collection[str]) -> None:
        self._nonce = secrets.token_hex(16)
        self._spelled: list[str] = []
        self._pattern = _alternatives(tuple(control_tokens))

    def over(self, value: Any) -> Any:
        """The same data with marks."""
        match value:
            case str():
                return self._pattern.sub(self._mark, value)
            case Mapping():
                return {self.over(key): self.over(inner) for key, inner in value.items()}
            case list():
                return [self.over(inner) for inner in value]
            case _:
                return value

    def cut(self, text: str) -> list[str]:
        """Rendered text, cut at the marks: by turns what the template wrote, and what was spelled."""
        pieces = re.split(f"{self._nonce}_([0-9]+)_", text)
        return [self._spelled[int(piece)] if index % 2 else piece for index, piece in enumerate(pieces)]

    def _mark(self, match: re.Match[str]) -> str:
        self._spelled.append(match[0])
        return f"{self._nonce}_{len(self._spelled) - 1}_"


@lru_cache(_CACHED)
def _alternatives(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
