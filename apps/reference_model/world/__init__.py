"""The made-up worlds that the reference model knows how to read: names and facts, new for every seed.

`Corpus(seed)` is what an evaluation needs: passages by topic as documents, and questions with right answers
and the passages that hold them. The committed demo corpus is `Corpus(20)`.
"""

from __future__ import annotations

from .corpus import Corpus
from .questions import Kind, Question
from .world import Entity, Fact, World

__all__ = ["Corpus", "Entity", "Fact", "Kind", "Question", "World"]
