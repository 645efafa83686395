"""Reports for people: what the optimizer does to a program, and where the time of a run went."""

from .run_report import RunReport

__all__ = ["RunReport"]
