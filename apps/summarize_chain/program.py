"""Summarize a text part by part: each step reads the summary so far and the next part."""

from __future__ import annotations

from weft import Var, fold, gen, program
from weft.apps.instructions import SUMMARIZE
from weft.apps.splitting import parts_of

State = tuple[str, str]  # the summary so far, and how the next prompt begins with it


@program
def summary(text: str, chars: int = 1000) -> str:
    """A summary of `text`, read in parts of at most `chars` characters."""

    def extend(state: State, part: Var[str]) -> State:
        longer = gen(f"Passage: {state[1]}{part}", system=SUMMARIZE, max_tokens=160, name="extend")
        return longer, f"{longer}. "

    written, _ = fold(extend, parts_of(text, chars), ("", ""))
    return written
