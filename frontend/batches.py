"""Many calls of a program at once."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from .errors import ArgumentError
from .jobs import Job

__all__ = ["as_completed"]


async def as_completed(
    run: Callable[[Job], Awaitable[Any]],
    jobs: Sequence[Job | ArgumentError],
    concurrency: int | None,
    return_exceptions: bool,
) -> AsyncGenerator[tuple[int, Any]]:
    """The number of each call with its result, as soon as there is one; closing it cancels the rest.

    A call whose arguments do not fit has failed without a run.
    """
    if concurrency is not None and concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    free = asyncio.Semaphore(concurrency or max(1, len(jobs)))
    ended: asyncio.Queue[int] = asyncio.Queue()

    async def one(job: Job | ArgumentError) -> Any:
        if isinstance(job, ArgumentError):
            raise job
        async with free:
            return await run(job)

    def has_ended(number: int, _: asyncio.Task[Any]) -> None:
        ended.put_nowait(number)

    tasks = {number: asyncio.ensure_future(one(job)) for number, job in enumerate(jobs)}
    for number, task in tasks.items():
        task.add_done_callback(functools.partial(has_ended, number))
    try:
        while tasks:
            task = tasks.pop(number := await ended.get())
            problem = None if task.cancelled() else task.exception()
            if isinstance(problem, Exception):
                problem.add_note(f"in call {number} of the batch")
            if return_exceptions and isinstance(problem, Exception):
                yield number, problem
            else:
                yield number, task.result()
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
