"""Training samples: conversations that share their beginning, and in what words tasks are put."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from ..world.questions import NOT_FOUND

__all__ = ["NOT_FOUND", "PROMPTS", "TASKS", "Branch", "Sample", "cite", "system"]

TASKS: Final = (
    "answer",
    "plain",
    "absent",
    "two_hops",
    "steps",
    "overwrite",
    "alias",
    "expand",
    "summarize",
    "refine",
    "agent",
    "judge",
    "standalone",
    "combine",
    "outline",
    "relevance",
)
"""What replies are counted under. A prompt can lead to several: to an answer, say, or to none."""

PROMPTS: Final[dict[str, tuple[str, ...]]] = {
    name: tuple(words)
    for name, words in tomllib.loads(
        (Path(__file__).parent / "prompts.toml").read_text(encoding="utf-8")
    ).items()
}
"""System messages; the first of each is the canonical one."""


@dataclass
class Branch:
    """One way on from a shared beginning: turns of the user and the assistant."""

    task: str
    turns: list[tuple[str, str]]
    note: str = ""
    """A variety of the task, for reports."""


@dataclass
class Sample:
    """Conversations that begin alike: a system message, and the beginning of the first user message."""

    system: str
    shared: str = ""
    branches: list[Branch] = field(default_factory=list)
    read: str = ""
    """The part of `shared` that is the text of documents."""
    apart: bool = False
    """The lines of `read` do not see each other: as if each had been read alone, and its KV put here."""

    def conversation(self, branch: Branch) -> tuple[list[dict[str, str]], str]:
        """The messages of a branch up to the last reply, and that reply."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for index, (user, assistant) in enumerate(branch.turns):
            content = user if index else self.shared + user
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": assistant})
        return messages[:-1], messages[-1]["content"]


def system(rng: Random, prompt: str, canonical: float) -> str:
    """The canonical system message, with that probability, or one of its paraphrases."""
    options = PROMPTS[prompt]
    return options[0] if rng.random() < canonical else rng.choice(options[1:])


def cite(text: str, *numbers: int) -> str:
    """An answer with the numbers of its passages."""
    return f"{text} " + "".join(f"[{number}]" for number in numbers)
