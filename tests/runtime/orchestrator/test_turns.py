"""A turn that a run was to have is not that of another one of its id."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from weft.runtime.orchestrator.turns import Turns


def live() -> Any:
    """What of a run the turns look at."""
    return SimpleNamespace(id="r", later={}, unblocked={}, advancing=False)


def replaced() -> tuple[Turns, Any]:
    """Turns with one that a run was to have which is over, and another run of the same id."""
    over, run = live(), live()
    runs: dict[str, Any] = {"r": over}
    turns = Turns(runs, lambda run, control: None, lambda run_id: None)
    turns.put_off(over, 1)
    runs["r"] = run
    return turns, run


async def test_the_turn_of_a_run_that_is_over_does_nothing_to_another_one_of_its_id() -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    _, run = replaced()
    await asyncio.sleep(0)
    assert (run.unblocked, problems) == ({}, [])


async def test_another_run_of_its_id_begins_one_map_or_fold_in_a_turn() -> None:
    turns, run = replaced()
    turns.put_off(run, 2)
    turns.put_off(run, 3)
    await asyncio.sleep(0)
    assert (list(run.unblocked), list(run.later)) == ([2], [3])
    await asyncio.sleep(0)
    assert (list(run.unblocked), list(run.later)) == ([2, 3], [])
