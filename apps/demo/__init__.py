"""``weft demo``: ten questions to the RAG and the agent app."""

from .demo import main

__all__ = ["main"]
