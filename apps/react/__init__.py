"""A ReAct agent with two tools."""

from __future__ import annotations

from weft.apps.reference_model.corpus import prepare

from .program import Step, agent

__all__ = ["PROGRAM", "Step", "agent", "prepare"]

PROGRAM = agent
