"""What can be wrong with a graph.

GraphError            the graph is not well formed
└── OperandError      an operation was given operands that it cannot take
EvaluationError       values that are known now do not allow an operation
└── TooLargeError     what the operation makes of them is too large
"""

from __future__ import annotations

__all__ = ["EvaluationError", "GraphError", "OperandError", "TooLargeError"]


class GraphError(ValueError):
    """A graph is not well formed; the message names the node and the source line that made it."""


class OperandError(GraphError):
    """An operation was given operands of the wrong names or types."""


class EvaluationError(ValueError):
    """The operands do not allow the operation."""


class TooLargeError(EvaluationError):
    """What the operation makes of its operands is too large."""
