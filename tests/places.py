"""The places where indexes may lie: what holds in one of them must hold in the other."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from weft.runtime.retrieval.index import IndexStore
from weft.runtime.retrieval.place import index_tables

__all__ = ["Place"]


@dataclass
class Place:
    """A place for the indexes of a test: a database, or a folder if there is no URL."""

    url: str
    data: Path
    opened: list[IndexStore] = field(default_factory=list)

    def store(self, url: str = "") -> IndexStore:
        """A store of its own, as another process would open it; `url`: by another user."""
        self.opened.append(IndexStore(index_tables(url or self.url, self.data)))
        return self.opened[-1]

    def process(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """A Python program that finds the URL, the folder and the arguments in `sys.argv`."""
        command = [sys.executable, "-P", "-c", program, self.url, str(self.data), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
