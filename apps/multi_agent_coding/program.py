"""A team writes a program: an architect designs it, coders write its files, reviewers have them revised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field

from weft import Context, Static, Var, map, program

TEAM = "You are a team that writes a small Python program: an architect, coders and reviewers."


class File(BaseModel):
    """One file of the design."""

    path: str = Field(max_length=40)
    purpose: str = Field(max_length=120)


@dataclass
class Written:
    """A file, and what the last reviewer said of it."""

    path: str
    code: str
    review: str


Design = Annotated[list[File], Field(min_length=1, max_length=4)]


@program
def project(task: str, rounds: Static[int] = 1, tokens: Static[int] = 256) -> list[Written]:
    """The files of a program for `task`, each revised `rounds` times, of at most `tokens` tokens each."""
    shared = Context(system=TEAM).user(f"Task: {task}\nArchitect: list the files as JSON, path and purpose.")
    design = shared.gen(type=Design, max_tokens=256, name="architect")

    def write(file: Var[File]) -> Written:
        (talk,) = shared.fork(1)  # everybody has read the task and the design, which is computed once
        code = talk.user(f"Coder: write {file.path} ({file.purpose}).").gen(max_tokens=tokens, name="coder")
        review = ""
        for _ in range(rounds):
            request = f"Reviewer: say in two sentences what is wrong with {file.path}."
            review = talk.user(request).gen(max_tokens=96, name="reviewer")
            code = talk.user(f"Coder: write {file.path} again.").gen(max_tokens=tokens, name="coder")
        return Written(file.path, code, review)

    return map(write, design)
