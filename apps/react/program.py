"""Answer a question step by step, with a search and a calculator (ReAct)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from weft import Context, neighbours, program, search
from weft.apps.calculator import calculator
from weft.apps.instructions import AGENT


class Step(BaseModel):
    """What the agent does next."""

    tool: Literal["search", "calculator", "finish"]
    input: str


@program
async def agent(question: str, index: str = "handbook", steps: int = 8) -> str:
    """The answer to `question`, after at most `steps` steps."""
    context = Context(system=AGENT).user(f"Question: {question}")
    for _ in range(steps):
        step = await context.gen(type=Step, max_tokens=96)
        match step.tool:
            case "finish":
                return step.input
            case "calculator":
                context.user(f"Observation: {calculator(step.input)}")
            case "search":
                found = neighbours(index, search(index, step.input, k=3), preceding=0)
                context.user(f"Observation: {found}")
    return "gave up"
