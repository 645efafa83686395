"""What reusing the KV of passages out of context costs in quality, by policy, against full recomputation.

The reference model answers questions of its evaluation; prompts, policies and measures are in the folder
`reuse`. `exact` is the percent of replies that are right; `lost` how many points fewer than under full
recomputation of the same prompts, with a 95 % interval by paired bootstrap; `KL` the mean divergence of the
next-token distribution from that of full recomputation, in nats; `agree` the percent of its greedy tokens, at
most 32, that are likeliest here as well. Run: ``weft bench quality``.

A comparison proves something only if the judge can tell good from bad. So the command fails if full
recomputation is below 98 % on a task, if `naive` does not lose 20 points on code names, or `unrotated` on
corrections.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from reuse.measures import FULL, Interval, Measured, compare, paired_interval
from reuse.policies import CHOOSERS, Policy
from reuse.prompts import prompts

from weft.apps.reference_model.training.encoder import MODEL
from weft.apps.reference_model.training.network import load

TASKS: Final = (
    "direct, 4-16 passages",
    "overwrite, 4-16 passages",
    "alias, 4-16 passages",
    "chain forwards, 4-16 passages",
    "chain backwards, 4-16 passages",
)
SHARES: Final = (0.05, 0.15, 0.3, 0.5)
NAMES: Final = ("full", "prefix", "naive", "unrotated", *CHOOSERS)
GATES: Final = {"overwrite, 4-16 passages": "unrotated", "alias, 4-16 passages": "naive"}
"""Which policy must lose on which task."""
LEAST_LOSS: Final = 20.0
LEAST_RIGHT: Final = 98.0


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one task; percent and points, but for the divergence."""

    task: str
    policy: str
    prompts: int
    exact: float
    lost: Interval
    divergence: Interval
    agreement: float


def measure(task: str, count: int, policies: list[Policy], folder: Path) -> list[Row]:
    """All policies, the first of which is full recomputation, on the same prompts."""
    network = load(folder)
    found = [compare(network, prompt, policies) for prompt in prompts(task, count)]
    columns = list(zip(*found, strict=True))
    return [
        _row(task, str(policy), list(columns[0]), list(column))
        for policy, column in zip(policies, columns, strict=True)
    ]


def failures(rows: list[Row]) -> list[str]:
    """Why the comparison proves nothing, if so."""
    by_name = {(row.task, row.policy): row for row in rows}
    weak = [
        f"full recomputation is right on {row.exact:.1f} % of {row.task!r}, not on {LEAST_RIGHT:.0f} %"
        for row in rows
        if row.policy == FULL.name and row.exact < LEAST_RIGHT
    ]
    blind = [
        f"{policy} loses {by_name[task, policy].lost.mean:.1f} points on {task!r}, not {LEAST_LOSS:.0f}"
        for task, policy in GATES.items()
        if (task, policy) in by_name and by_name[task, policy].lost.mean < LEAST_LOSS
    ]
    return weak + blind


def main() -> None:
    """Measure, print a table, and fail if it proves nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of a model that weft trained")
    parser.add_argument("--count", type=int, default=200, help="prompts of each task")
    parser.add_argument("--policies", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, help="of tokens to recompute")
    parser.add_argument("--quick", action="store_true", help="40 prompts, the gates, and one share")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    parser.add_argument("--threads", type=int, default=1, help="more only help where nothing else runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.count, options.shares = 40, [0.15]
    tasks = [task for task in TASKS if not options.quick or task in GATES]
    policies = _policies(options.policies, options.shares)
    started = time.monotonic()
    rows: list[Row] = []
    for task in tasks:
        rows += measure(task, options.count, policies, options.model)
        print(_table([row for row in rows if row.task == task]), flush=True)
    problems = failures(rows)
    if options.output:
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads, float32",
            "seconds": round(time.monotonic() - started),
            "problems": problems,
        }
        kept = about | {"rows": [asdict(row) for row in rows]}
        options.output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if problems:
        sys.exit("this comparison proves nothing: " + "; ".join(problems))


def _policies(names: list[str], shares: list[float]) -> list[Policy]:
    """Full recomputation and what the gates need are always among them."""
    wanted = {FULL.name, *GATES.values(), *names}
    found = [Policy(name) for name in NAMES if name in wanted and name not in CHOOSERS]
    return found + [Policy(name, share) for share in shares for name in CHOOSERS if name in wanted]


def _row(task: str, policy: str, full: list[Measured], found: list[Measured]) -> Row:
    lost = [100.0 * (one.exact - other.exact) for one, other in zip(full, found, strict=True)]
    return Row(
        task,
        policy,
        len(found),
        exact=100 * sum(each.exact for each in found) / len(found),
        lost=paired_interval(lost),
        divergence=paired_interval([each.divergence for each in found]),
        agreement=100 * sum(each.agreement for each in found) / len(found),
    )


def _table(rows: list[Row]) -> str:
    lines = [
        f"\n{rows[0].task}, {rows[0].prompts} prompts",
        f"{'policy':16}exact   lost  (95 %)       KL     agree",
    ]
    for row in rows:
        bounds = f"({row.lost.low:.1f} to {row.lost.high:.1f})"
        lines.append(
            f"{row.policy:14}{row.exact:7.1f}{row.lost.mean:7.1f}  {bounds:14}{row.divergence.mean:7.3f}"
            f"{row.agreement:8.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
