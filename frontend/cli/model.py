"""`weft model`: train and evaluate the reference model."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from .output import OUTPUT
from .problems import CommandGroup, UsageProblem

__all__ = ["app"]

_TRAINING: Final = "weft.apps.reference_model.training"

app = typer.Typer(
    cls=CommandGroup,
    help="Train and evaluate the reference model.",
    no_args_is_help=True,
)


@app.command("train")
def train(
    folder: Annotated[Path, typer.Argument(help="Where checkpoints and the model go.")],
    minutes: Annotated[
        float, typer.Option(min=0, help="Stop after so long; the same command then goes on from there.")
    ] = 10.0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that make data; all cores but one by default.")
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="A tiny model, for half a minute of a CPU.")] = False,
) -> None:
    """Train the reference model anew, on a GPU if there is one."""
    training = _module("train")
    plan = training.SMOKE if smoke else training.FULL
    try:
        done = training.train(
            plan,
            folder,
            minutes=minutes,
            workers=workers or max(1, (os.cpu_count() or 2) - 1),
            log=lambda line: OUTPUT.out(line, highlight=False),
        )
    except training.PlanMismatch as problem:
        raise UsageProblem(str(problem)) from problem
    OUTPUT.out(f"{folder} holds the model" if done else f"not at the end; weft model train {folder} goes on")


@app.command("eval")
def evaluate(
    folder: Annotated[
        Path | None, typer.Argument(help="Of a model; the bundled one by default.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Cases for each task.")] = 300,
    paraphrased: Annotated[
        bool, typer.Option("--paraphrased", help="With paraphrases of the canonical system messages.")
    ] = False,
    perturbed: Annotated[
        bool,
        typer.Option(
            "--perturbed", help="By ways to put a prompt that training has not seen, over all tasks."
        ),
    ] = False,
    only: Annotated[str, typer.Option(help="Only tasks with this in their name.")] = "",
    engine: Annotated[
        bool,
        typer.Option("--engine", help="Compare the replies of weft's engine and of transformers instead."),
    ] = False,
) -> None:
    """How many percent of replies about worlds never seen are right, by task."""
    evaluation = _module("evaluate")
    folder = folder or _module("encoder").MODEL
    network = _module("network").load(folder).to(_module("train").device())
    groups = {name: group for name, group in evaluation.GROUPS.items() if only in name}
    if not groups:
        raise UsageProblem(f"no task has {only!r} in its name; they are {'; '.join(evaluation.GROUPS)}")
    if perturbed:
        sets = {
            name: list(evaluation.perturbed_cases(name, list(groups.values()), count))
            for name in _module("perturbations").PERTURBATIONS
        }
    else:
        share = 0.0 if paraphrased else 1.0
        sets = {name: list(evaluation.cases(group, count, share)) for name, group in groups.items()}
    encode = _module("encoder").Encoder()
    for name, cases in sets.items():
        if engine:
            prompts = [case.tokens(encode)[0] for case in cases]
            same = len(cases) - len(_module("agreement").differences(folder, prompts))
            OUTPUT.out(f"{name:34}{same} of {len(cases)} the same", highlight=False)
        elif cases:
            OUTPUT.out(f"{name:34}{100 * evaluation.evaluate(network, cases):6.1f}", highlight=False)


def _module(name: str) -> Any:
    """A module of the training, by name: apps stand above the command."""
    return importlib.import_module(f"{_TRAINING}.{name}")
