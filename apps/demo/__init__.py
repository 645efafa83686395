"""``weft demo``: ten questions to the apps `rag` and `react`."""

from .demo import main

__all__ = ["main"]
