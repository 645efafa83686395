"""Runs workloads in all systems, in turn, on one engine, and counts what the engine did."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plans.workload import Case, Workload, World
from pydantic_core import to_jsonable_python
from systems import OWN, PLAIN, runner
from systems.calls import Door, Run
from workloads.loads import poisson, quantiles
from workloads.servers import HttpServer

from weft import Client
from weft.frontend.report import RunReport
from weft.frontend.report.tasks import Task
from weft.runtime.retrieval.index import IndexStore
from weft.runtime.retrieval.lance import LanceTables

__all__ = ["INDEX", "Bench", "Extent", "Row"]

INDEX: Final = "suite"
WARM_UP: Final = 1  # runs
_RUNS: Final = 200  # the latest, which are asked for
Row = dict[str, Any]
"""What was found for a workload: JSON data, as `summary` and `page` read it."""


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    repeats: int
    arrivals: int
    """At each rate, of the workloads that are also loaded."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Of Poisson arrivals, as multiples of what the first system serves one after the other."""

    def cases(self, loaded: bool) -> int:
        """How many a workload needs: to warm up, for the times, for the counts, for the arrivals."""
        return WARM_UP + self.repeats + 1 + (self.arrivals if loaded else 0)


class Bench:
    """The systems around one server. Use its methods on one event loop, and close it there."""

    def __init__(
        self,
        server: HttpServer,
        folder: Path,
        world: World,
        systems: Sequence[str],
        *,
        plain: HttpServer | None = None,
        forced: bool = False,
    ) -> None:
        """`folder`: the data folder of the server, where it has indexed the world if a workload searches.

        `plain`: the server of the system `PLAIN`, with an index of its own. `forced`: texts are as long as
        their steps allow, and none is expected to be right.
        """
        self._server = server
        self._plain = plain
        self._indexes = folder / "indexes"
        self._world = world
        self._systems = list(systems)
        self._forced = forced
        self._doors: list[Door] = []

    async def row(
        self, workload: Workload, extent: Extent, *, loaded: bool, progress: Callable[[str], None]
    ) -> Row:
        """One workload in all systems. Raises UnknownIndexError if it searches and nothing is indexed.

        Every case is run by each system once, another first each time; runs of different systems share
        nothing that the engine has read. The first case is not counted; after the last, one more run of each
        system, which is not timed, says what the engine did.
        """
        if workload.plan.searches():
            IndexStore(LanceTables(self._indexes)).describe(INDEX)
        cases = workload.cases(self._world, extent.cases(loaded))
        timed, counted = cases[: WARM_UP + extent.repeats], cases[WARM_UP + extent.repeats]
        before, began = os.getloadavg()[0], time.strftime("%Y-%m-%dT%H:%M:%S")
        arms = {name: self._arm(name, workload, name) for name in self._systems}
        results, times = await _in_turn(arms, timed, lambda place: progress(f"{place} of {len(timed)} runs"))
        progress("what the engine did")
        engine: dict[str, Any] = {}
        for name, arm in arms.items():
            result, engine[name] = await _engine(self._client(name), arm, counted)
            results[name].append(result)
        row: Row = {
            "workload": workload.name,
            "paper": workload.paper,
            "shape": workload.shape,
            "calls": workload.plan.asks(),
            "began": began,
            "load average before": before,
            "systems": {
                name: quantiles(found[WARM_UP:]) | {"ms": found[WARM_UP:]} for name, found in times.items()
            },
            "differs": _differing(results),
            "right": None if self._forced else _right([*timed, counted], results[self._systems[0]]),
            "engine": engine,
        }
        if loaded:
            per_s = 1e3 / row["systems"][self._systems[0]]["p50"]
            row["load"] = await self._load(workload, cases[-extent.arrivals :], per_s, extent.rates, progress)
        return row

    async def close(self) -> None:
        """Close all connections of the baselines."""
        for door in self._doors:
            await door.close()

    def _client(self, system: str) -> Client:
        if system != PLAIN:
            return self._server.client
        if self._plain is None:
            raise ValueError(f"{PLAIN!r} needs a server of its own")
        return self._plain.client

    def _arm(self, system: str, workload: Workload, salt: str) -> Run:
        if system in OWN:
            from systems import weft_programs

            client = self._client(system)
            return weft_programs.runner(workload.plan, client, INDEX, salt, forced=self._forced)
        salt = "" if system == "unshared" else salt
        door = Door(self._server.url, self._server.model, salt, self._indexes, INDEX, forced=self._forced)
        self._doors.append(door)
        return runner(system, workload.plan, door)

    async def _load(
        self,
        workload: Workload,
        cases: Sequence[Case],
        alone_per_s: float,
        rates: Sequence[float],
        progress: Callable[[str], None],
    ) -> list[dict[str, Any]]:
        """Latency and throughput under Poisson arrivals; at every rate nobody has read anything yet."""
        found: list[dict[str, Any]] = []
        calls = [(case.inputs,) for case in cases]
        for share in rates:
            for system in self._systems:
                progress(f"{share * alone_per_s:.1f} runs a second, {system}")
                arm = self._arm(system, workload, f"{system} at {share}")
                began = time.perf_counter()
                times, _ = await poisson(arm, calls, share * alone_per_s)
                done_per_s = len(calls) / (time.perf_counter() - began)
                point = {"system": system, "offered per s": share * alone_per_s, "done per s": done_per_s}
                found.append(point | quantiles(times))
        return found


async def _engine(client: Client, arm: Run, case: Case) -> tuple[Any, dict[str, Any]]:
    """The result of one run; tokens that it read, found in the cache and wrote; what its time went to."""

    def known() -> set[str]:
        return {run.run for run in client.runs(limit=_RUNS)}

    def explained(runs: set[str]) -> list[RunReport]:
        return [client.run(run).explain() for run in sorted(runs)]

    before = await asyncio.to_thread(known)
    result = to_jsonable_python(await arm(case.inputs))
    reports = await asyncio.to_thread(lambda: explained(known() - before))
    return result, _counted(reports)


async def _in_turn(
    arms: Mapping[str, Run], cases: Sequence[Case], progress: Callable[[int], None]
) -> tuple[dict[str, list[Any]], dict[str, list[float]]]:
    results: dict[str, list[Any]] = {name: [] for name in arms}
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for number, case in enumerate(cases):
        progress(number)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter()
            result = await arms[name](case.inputs)
            times[name].append((time.perf_counter() - began) * 1e3)
            results[name].append(to_jsonable_python(result))
    return results, times


def _differing(results: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """For each system, how many of its results are not those of the first."""
    first = next(iter(results.values()))
    counts = {name: sum(a != b for a, b in zip(first, found, strict=True)) for name, found in results.items()}
    return {name: count for name, count in counts.items() if count}


def _right(cases: Sequence[Case], results: Sequence[Any]) -> dict[str, int] | None:
    """How many answers are right, of those that the model can know."""
    pairs: list[tuple[Any, Any]] = []
    for case, result in zip(cases, results, strict=True):
        if case.answer is None:
            return None
        several = isinstance(case.answer, list)
        pairs += zip(case.answer, result, strict=True) if several else [(case.answer, result)]
    return {"right": sum(wanted == given for wanted, given in pairs), "of": len(pairs)}


def _counted(reports: Sequence[RunReport]) -> dict[str, Any]:
    tasks: list[Task] = [task for report in reports for task in report.tasks.values() if task.kind == "llm"]
    cached = sum(task.cached_tokens for task in tasks)
    computed = sum(task.computed_tokens for task in tasks)
    found: dict[str, Any] = {
        "runs": len(reports),
        "cached": cached,
        "computed": computed,
        "written": sum(task.generated_tokens for task in tasks),
        "hit rate": cached / (cached + computed) if cached + computed else 0.0,
    }
    if len(reports) == 1:
        (report,) = reports
        found["blame"] = {str(phase): ms for phase, ms in report.blame.items()}
    return found
