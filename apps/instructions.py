"""The system messages of the bundled programs.

Any instruct model follows them. They are worded as the bundled reference model was trained on them, so that
the programs also give right answers without any other model. Each goes with one form of the user's message,
which the table in `reference_model/README.md` shows.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "AGENT",
    "ANSWER",
    "BRIEF",
    "COMBINE",
    "EXPAND",
    "JUDGE",
    "NOT_FOUND",
    "OUTLINE",
    "REFINE",
    "STANDALONE",
    "SUMMARIZE",
]

NOT_FOUND: Final = "not found"
"""What models reply when what they have read does not say."""

ANSWER: Final = (
    "Answer the question using only the numbered passages. Give the answer and the passage number in "
    "brackets. If the passages do not contain the answer, reply: not found"
)
BRIEF: Final = (
    "Answer the question from the context in a few words, without citations. If the context does not "
    "contain the answer, reply: not found"
)
EXPAND: Final = "Write three short search queries for the question. Reply with a JSON list of three strings."
REFINE: Final = (
    "Refine the previous answer with the new passage. If the passage answers the question, give its answer; "
    "otherwise repeat the previous answer."
)
JUDGE: Final = "Judge whether the proposed answer is correct according to the passages. Reply yes or no."
SUMMARIZE: Final = "Summarize the passage in one line that lists its facts."
COMBINE: Final = (
    "Combine the partial answers into one final answer. Ignore partial answers that say not found."
)
STANDALONE: Final = "Rewrite the follow-up question as a standalone question, using the chat history."
OUTLINE: Final = "List the attributes of the topic that the passages cover. Reply with a JSON list."
AGENT: Final = (
    "You are an agent that answers a question step by step. Tools: search looks up facts, calculator "
    "computes an expression, finish gives the final answer. Reply with one JSON object with the keys tool "
    "and input."
)
