"""What the scheduler's policies are worth, in the simulator: ratios to weaker schedulers, ablations, scale.

- `ratios`: weft against (a) no knowledge of applications: every call on its own, first come first served, to
  the worker with the fewest calls; (b) the strongest thing without a graph: a session stays on its worker
  unless that has twice the mean load, programs first come first served. All arms have the same prefix caches.
- `ablation`: weft with one policy exchanged at a time.
- `scale`: CPU time of the scheduler for each primitive, from 10 to 1,000 workers.
- `calibrate`: runs of the embedded runtime, and the same in the simulator (`workloads/calibration.py`).

Workers are modelled: Llama-3.1-8B on one H200 (`weft.runtime.simulator.profiles`). Programs arrive as a
Poisson process, the same programs at the same times in every arm. Run: ``weft bench simulate ratios``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from workloads.arms import NO_KNOWLEDGE, SESSIONS
from workloads.calibration import calibrate

from weft.runtime.process import collect_seldom
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.simulator.builder import Form
from weft.runtime.simulator.profiles import LLAMA_8B_H200, BatchProfile, LlmProfile
from weft.runtime.simulator.report import Report, pooled, report
from weft.runtime.simulator.simulation import Outcome, Simulation
from weft.runtime.simulator.worker import SimWorker
from weft.runtime.simulator.workloads import Mix, arrivals

COSTS: Final = LLAMA_8B_H200.costs
BATCHES: Final = tuple(BatchProfile(kind) for kind in ("embed", "index", "rerank"))


class Arm(NamedTuple):
    """A way to run programs."""

    form: Form
    policies: Policies


ARMS: Final[Mapping[str, Arm]] = {
    "weft": Arm("graph", Policies(link_mb_s=LLAMA_8B_H200.link_bytes_per_ms / 1e3)),
    "a": Arm("calls", NO_KNOWLEDGE),
    "b": Arm("calls", SESSIONS),
}


class Scenario(NamedTuple):
    """Programs on four workers."""

    mix: Mix
    kv_slots: int = LLAMA_8B_H200.kv_slots
    seconds: float = 60.0


TIGHT: Final = 100_000
"""Tokens of KV of a card that is smaller, or shared with others."""

SCENARIOS: Final[Mapping[str, Scenario]] = {
    "chat + map-reduce": Scenario(Mix({"chat": 4.0, "map_reduce": 2.0})),
    "chat + map-reduce, busy": Scenario(Mix({"chat": 6.0, "map_reduce": 4.0}), TIGHT),
    "chain + background": Scenario(Mix({"chain": 0.5, "family": 6.0})),
    "chain + background, busy": Scenario(Mix({"chain": 1.5, "family": 12.0}), TIGHT),
    "four families": Scenario(Mix({"family": 20.0})),
    "four families, tight": Scenario(Mix({"family": 40.0}), 40_000),
    "coding": Scenario(Mix({"coding": 0.5})),
    "coding, busy": Scenario(Mix({"coding": 1.5}), TIGHT),
    "web agents": Scenario(Mix({"webarena": 0.5}), seconds=120.0),
    "web agents, tight": Scenario(Mix({"webarena": 1.0}), TIGHT, 120.0),
}

ABLATED: Final[Mapping[str, Scenario]] = {
    "chat + map-reduce": SCENARIOS["chat + map-reduce, busy"],
    "families": SCENARIOS["four families, tight"],
    "coding": SCENARIOS["coding, busy"],
    "rag + debate": Scenario(Mix({"rag": 8.0, "debate": 3.0})),
    "rag + debate, tight": Scenario(Mix({"rag": 6.0, "debate": 4.0}), 40_000),
    "web agents": SCENARIOS["web agents, tight"],
    "code agents": Scenario(Mix({"swe": 1.0}), TIGHT, 120.0),
    "steady agents": Scenario(Mix({"steady": 1.0}), TIGHT, 120.0),
}

SWITCHES: Final[Sequence[Mapping[str, Any]]] = (
    {"batching": "topology"},
    {"batching": "per_invocation"},
    {"priority": "arrival"},
    {"priority": "attained"},
    {"placement": "round_robin"},
    {"placement": "least_loaded"},
    {"placement": "sticky"},
    {"admission": "everybody"},
    {"advice": "liveness"},
    {"advice": "none"},
    {"transfer": "never"},
)


SEEDS: Final = (1, 2, 3)
"""Of the arrivals and lengths: what only some show is chance."""


def simulate(
    mix: Mix,
    workers: int,
    seconds: float,
    arm: Arm,
    llm: LlmProfile = LLAMA_8B_H200,
    *,
    seed: int = SEEDS[0],
    keep: bool = False,
) -> Outcome:
    """Programs that arrive for so many seconds, until the last is over."""
    simulation = Simulation(Scheduler(arm.policies), keep_calls=keep)
    for number in range(workers):
        simulation.join(partial(SimWorker, f"w{number}", llms=[llm], batches=BATCHES))
    return simulation.run(arrivals(mix, seconds, seed, COSTS, arm.form))


def measure(scenario: Scenario, arm: Arm, share: float) -> Report:
    """One arm in one scenario: the runs of all seeds together."""
    llm = dataclasses.replace(LLAMA_8B_H200, kv_slots=scenario.kv_slots)
    seconds = scenario.seconds * share
    return report(pooled([simulate(scenario.mix, 4, seconds, arm, llm, seed=n, keep=True) for n in SEEDS]))


def ratios(share: float) -> dict[str, Any]:
    """Job completion times of all arms, and those of (a) and (b) as multiples of weft's."""
    found: dict[str, Any] = {}
    print(f"{'scenario':26}{'program':12}{'weft s':>8}  mean P50 P95 P99 of a / of b, as multiples of weft's")
    for name, scenario in SCENARIOS.items():
        reports = {arm: measure(scenario, ARMS[arm], share) for arm in ARMS}
        found[name] = {arm: dataclasses.asdict(each) for arm, each in reports.items()}
        for kind, mine in reports["weft"].latency.items():
            line = f"{name:26}{kind:12}{mine.mean:8.2f} "
            for arm in ("a", "b"):
                other = reports[arm].latency[kind]
                times = zip(dataclasses.astuple(other)[1:], dataclasses.astuple(mine)[1:], strict=True)
                line += "  " + " ".join(f"{theirs / ours:5.2f}" for theirs, ours in times)
            if len(reports["weft"].latency) > 2 or kind == "all":
                print(line, flush=True)
        hits = " ".join(f"{arm} {each.hit_rate:.0%}" for arm, each in reports.items())
        fetched = _share_fetched(reports["weft"])
        print(f"{'':26}found in caches: {hits}; from another worker: weft {fetched:.1%}", flush=True)
    return found


def _share_fetched(found: Report) -> float:
    """Of the tokens of all prompts, those that came from another worker."""
    read = found.computed_tokens / (1 - found.hit_rate)
    return found.fetched_tokens / read


def ablation(share: float, only: Sequence[str]) -> dict[str, Any]:
    """Mean job completion time with one policy exchanged, as a multiple of that with the defaults."""
    found: dict[str, Any] = {}
    print(f"{'instead of the default':28}" + "".join(f"{name:>22}" for name in ABLATED))
    base = {name: measure(scenario, ARMS["weft"], share) for name, scenario in ABLATED.items()}
    found["defaults"] = {name: dataclasses.asdict(each) for name, each in base.items()}
    print(f"{'(defaults: mean s / P95 s)':28}" + "".join(f"{_seconds(each):>22}" for each in base.values()))
    for switch in SWITCHES:
        ((policy, instead),) = switch.items()
        if f"{policy}={instead}" not in only:
            continue
        arm = Arm("graph", dataclasses.replace(ARMS["weft"].policies, **switch))
        others = {name: measure(scenario, arm, share) for name, scenario in ABLATED.items()}
        found[f"{policy}={instead}"] = {name: dataclasses.asdict(each) for name, each in others.items()}
        cells = (_ratio(others[name], base[name]) for name in ABLATED)
        print(f"{policy + '=' + instead:28}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    return found


def _seconds(each: Report) -> str:
    return f"{each.latency['all'].mean:.2f} / {each.latency['all'].p95:.2f}"


def _ratio(other: Report, base: Report) -> str:
    mine, theirs = base.latency["all"], other.latency["all"]
    return f"{theirs.mean / mine.mean:.3f} / {theirs.p95 / mine.p95:.3f}"


SCALE_MIX: Final[Mapping[str, float]] = {
    "family": 0.6,
    "chat": 0.2,
    "rag": 0.12,
    "debate": 0.05,
    "map_reduce": 0.03,
}


def scale(share: float) -> dict[str, Any]:
    """The scheduler's CPU time for each primitive; 100 runs for each worker, at the same load for each."""
    collect_seldom()  # as the process of an orchestrator does
    found: dict[str, Any] = {}
    for workers in (10, 100, 1000):
        rate = 1.5 * workers
        mix = Mix({name: part * rate for name, part in SCALE_MIX.items()})
        outcome = simulate(mix, workers, 100 / 1.5 * share, ARMS["weft"])
        us = outcome.scheduler_s / outcome.primitives * 1e6
        found[str(workers)] = {
            "runs": len(outcome.runs),
            "failed": sum(bool(run.fault) for run in outcome.runs),
            "primitives": outcome.primitives,
            "us per primitive": us,
            "primitives a second": 1e6 / us,
            "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(workers, "workers:", json.dumps(found[str(workers)]), flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    names = [f"{policy}={instead}" for switch in SWITCHES for policy, instead in switch.items()]
    parser = argparse.ArgumentParser(prog="simulate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=["ablation", "calibrate", "ratios", "scale"])
    parser.add_argument("--share", type=float, default=1.0, help="of the simulated time, for a quick look")
    parser.add_argument("--only", action="append", choices=names, help="this ablation; may be repeated")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    options = parser.parse_args(argv)
    chosen = partial(ablation, only=options.only or names)
    parts: dict[str, Callable[[float], dict[str, Any]]] = {
        "ratios": ratios,
        "ablation": chosen,
        "scale": scale,
        "calibrate": calibrate,
    }
    found = parts[options.part](options.share)
    if options.json:
        machine = {"python": platform.python_version(), "cpu": platform.processor() or platform.machine()}
        report = {"machine": machine, "date": time.strftime("%Y-%m-%d"), options.part: found}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
