"""Answer questions step by step, with a search and a calculator (ReAct)."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Final, Literal

from pydantic import BaseModel

from weft import Context, Static, program, search, tool

AGENT = (
    "You are an agent that answers a question step by step. Tools: search looks up facts, calculator "
    "computes an expression, finish gives the final answer. Reply with one JSON object with the keys tool "
    "and input."
)
_OPERATORS: Final[dict[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Step(BaseModel):
    """What the agent does next."""

    tool: Literal["search", "calculator", "finish"]
    input: str


@tool(pure=True)
def calculator(expression: str) -> str:
    """The value of an arithmetic expression such as ``480 - 75``, or what is wrong with it."""
    try:
        value = _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError) as problem:
        return f"error: {problem}"
    return str(int(value) if value == int(value) else value)


@program
async def agent(question: str, index: Static[str] = "handbook", steps: Static[int] = 8) -> str:
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
                context.user(f"Observation: {search(index, step.input, k=3)}")
    return "gave up"


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
        case _:
            raise ValueError("only numbers and + - * / ( ) can be computed")
