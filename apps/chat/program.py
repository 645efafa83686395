"""Talk about an index: follow-up questions are understood by what was said before."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from weft import gen, neighbours, program, search
from weft.apps.instructions import ANSWER, STANDALONE


class Turn(BaseModel):
    """A message of the user, and the reply."""

    user: str
    assistant: str


@program
async def reply(
    message: str,
    history: Sequence[Turn] = (),
    index: str = "handbook",
) -> str:
    """The reply to `message` after the turns of `history`, with citations."""
    question = message
    if history:
        past = "\n".join(f"User: {turn.user}\nAssistant: {turn.assistant}" for turn in history)
        prompt = f"Chat history:\n{past}\n\nFollow-up question: {message}"
        question = gen(prompt, system=STANDALONE, max_tokens=64, name="standalone")
    passages = neighbours(index, search(index, question, k=6))
    return gen(f"Passages:\n{passages}\n\nQuestion: {question}", system=ANSWER, max_tokens=96)
