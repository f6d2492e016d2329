"""The two verbs of Python callers that need no spec: open a target, train from keywords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .analysis import Target, open_problem, training_result
from .figures.tensorboard import add_figures
from .plugins import library
from .problem import Problem
from .run import Run
from .specs import ProblemSpec, TrainSpec
from .training import trainer
from .training.events import FOLDER


def open(target: Run | Path | str, *, all_domains: bool = False, **options: Any) -> Problem:
    """Build the problem that a run or a checkpoint stands for.

    Args:
        target: A `Run`, a run folder, ``RUN@best``, ``RUN@step=N`` or a checkpoint file.
        all_domains: Take the domains the run held out, too.
        **options: Fields of `ProblemSpec` (``split="test"``, ``examples=512``, ``dtype="float64"``, ...);
            a bare file needs ``model`` and ``data``.

    Raises:
        UsageError, DataError, NumericalError: As `landscape.analysis.open_problem` says.
    """
    found = Target.find(str(target.path if isinstance(target, Run) else target))
    return open_problem(found, ProblemSpec(**options), all_domains=all_domains)


def train(out: Path | str = "runs", *, resume: bool = False, force: bool = False, **options: Any) -> list[Run]:
    """Train every chosen optimizer with every seed into ``out/OPTIMIZER-seedN``.

    Args:
        out: Folder of the run folders.
        resume: Continue unfinished runs.
        force: Start anew where a run exists.
        **options: Fields of `TrainSpec` (``optimizer=("sgd", "sam")``, ``seed=(0, 1)``, ``epochs=30``, ...).

    Returns:
        The finished runs.
    """
    return train_spec(TrainSpec(**options), out, resume=resume, force=force)


def train_spec(spec: TrainSpec, out: Path | str = "runs", *, resume: bool = False, force: bool = False) -> list[Run]:
    """As `train`, from a spec; with ``spec.tensorboard`` the figures of each run follow its scalars."""
    if spec.tensorboard:
        library("tensorboard", "tensorboard")
    runs = trainer.train(spec, out, resume=resume, force=force)
    for run in runs if spec.tensorboard else ():
        add_figures(run.path / FOLDER, [training_result(run)], int(run.record["steps"]))
    return runs
