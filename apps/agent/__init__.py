"""A ReAct agent with two tools."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Step, agent, calculator

__all__ = ["PROGRAM", "Step", "agent", "calculator", "prepare"]

PROGRAM = agent
