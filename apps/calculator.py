"""A calculator that models can use."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Final

from weft import tool

__all__ = ["calculator"]

_OPERATORS: Final[dict[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@tool(pure=True)
def calculator(expression: str) -> str:
    """The value of an arithmetic expression such as ``480 - 75``, or what is wrong with it."""
    try:
        value = _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError) as problem:
        return f"error: {problem}"
    return str(int(value) if value == int(value) else value)


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
