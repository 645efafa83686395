"""Summarize the parts of a text side by side, then their summaries."""

from __future__ import annotations

from weft import Var, gen, map, program
from weft.apps.instructions import SUMMARIZE
from weft.apps.splitting import parts_of


@program
def summary(text: str, chars: int = 1000) -> str:
    """A summary of `text`, read in parts of at most `chars` characters."""

    def summarize(part: Var[str]) -> str:
        return f"{gen(f'Passage: {part}', system=SUMMARIZE, max_tokens=120, name='map')}."

    lines = map(summarize, parts_of(text, chars))
    return gen(f"Passage: {lines}", system=SUMMARIZE, max_tokens=160, name="reduce")
