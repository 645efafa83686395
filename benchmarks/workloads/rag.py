"""What orchestration costs an application: the bundled advanced RAG, and the questions of the bundled corpus.

Each question is asked once. Of each answer, by the clock of the program that asks and the record of the run:

- `total`: from the call of the program to its result.
- `engines`: how long engines and tools were at work on the run's critical path (the phases prefill, decode,
  fetch, compute and tool of its report).
- `overhead`: the rest of `total`, as a part of it: messages, threads that wake, the orchestrator, the client,
  and waiting for an engine, even if that does other work of the run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from weft import Client
from weft.apps import rag_advanced
from weft.apps.reference_model.corpus import prepare, questions

__all__ = ["COLUMNS", "measure"]

_WARM_UP: Final = 10  # questions
_WORK: Final = ("prefill", "decode", "fetch", "compute", "tool")

COLUMNS: Final = ("total_ms", "engines_ms", "overhead_ms", "overhead_%")


class _Answer(NamedTuple):
    total_ms: float
    engines_ms: float

    @property
    def row(self) -> tuple[float, ...]:
        rest = self.total_ms - self.engines_ms
        return (*self, rest, 100 * rest / self.total_ms)


def measure(client: Client) -> Mapping[str, float]:
    """The columns, as medians over the questions."""
    prepare(client)
    answers = [_ask(client, question.text) for question in questions()][_WARM_UP:]
    columns = zip(*(answer.row for answer in answers), strict=True)
    return dict(zip(COLUMNS, map(statistics.median, columns), strict=True))


def _ask(client: Client, question: str) -> _Answer:
    program = rag_advanced.PROGRAM.using(client)
    began = time.perf_counter()
    program(question)
    total_ms = (time.perf_counter() - began) * 1e3
    spent = client.run(client.runs(limit=1)[0].run).explain().blame
    return _Answer(total_ms, sum(spent.get(phase, 0.0) for phase in _WORK))
