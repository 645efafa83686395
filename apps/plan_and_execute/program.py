"""Plan the look-ups that a question takes, let a person change the plan, make them, and conclude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from weft import Static, Var, gen, interrupt, map, neighbours, program, search
from weft.apps.instructions import ANSWER

PLAN = (
    "Break the question into the simple questions that have to be looked up to answer it. Reply with a JSON "
    "list of strings."
)
CONCLUDE = "Answer the question from the findings. If they do not contain the answer, reply: not found"

Step = Annotated[str, Field(max_length=120)]
Plan = Annotated[list[Step], Field(min_length=1, max_length=5)]


@dataclass
class Finding:
    """One step of the plan, and what came of it."""

    step: str
    answer: str


@dataclass
class Report:
    """The answer, and how it was found."""

    answer: str
    findings: list[Finding]


@program
def report(question: str, index: Static[str] = "handbook", approve: Static[bool] = False) -> Report:
    """The answer to `question` from the passages of an index; `approve`: a person sees the plan first."""
    plan = gen(f"Question: {question}", system=PLAN, type=Plan, max_tokens=128, name="plan")
    if approve:
        plan = interrupt(plan, type=list[str], name="approve")

    def execute(step: Var[str]) -> Finding:
        passages = neighbours(index, search(index, step, k=4))
        prompt = f"Passages:\n{passages}\n\nQuestion: {step}"
        return Finding(step, gen(prompt, system=ANSWER, max_tokens=48, name="look up"))

    findings = map(execute, plan)
    prompt = f"Question: {question}\nFindings:\n{findings}"
    return Report(gen(prompt, system=CONCLUDE, max_tokens=64, name="conclude"), findings)
