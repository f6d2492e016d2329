"""The verbs of Python callers that need no spec: open a target, train from keywords, do a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .analyses.opening import open_problem
from .base.plugins import library
from .figures.tensorboard import add_figures
from .problem.problem import Problem
from .results.history import training_result
from .results.result import Result
from .results.run import Run
from .results.target import Target
from .runtime.caller_context import computing
from .specs import ProblemSpec, TrainSpec
from .specs.study import Experiment
from .study.shipped import find as find_study
from .study.study import default_folder
from .study.study import run as do_study
from .study.study import statistics as study_statistics
from .training import trainer
from .training.events import FOLDER


@computing()
def open(target: Run | Path | str, *, all_domains: bool = False, **options: object) -> Problem:
    """Build the problem that a run or a checkpoint stands for.

    Args:
        target: A `Run`, a run folder, ``RUN@best``, ``RUN@step=N`` or a checkpoint file.
        all_domains: Take the domains the run held out, too.
        **options: Fields of `ProblemSpec` (``split="test"``, ``examples=512``, ``dtype="float64"``, ...);
            a bare file needs ``model`` and ``data``.

    Raises:
        UsageError, DataError, NumericalError: As `landscape.analyses.opening.open_problem` says.

    Example:
        >>> import tempfile, landscape
        >>> folder = tempfile.mkdtemp()
        >>> [run] = landscape.train(folder, data="gaussian-domains", model="mlp", steps=5, optimizer=("sam",))
        >>> problem = landscape.open(run, split="test", examples=30)
        >>> problem.n_examples
        30
    """
    found = Target.find(str(target.path if isinstance(target, Run) else target))
    return open_problem(found, ProblemSpec.from_options(**options), all_domains=all_domains)


def train(out: Path | str = "runs", *, resume: bool = False, force: bool = False, **options: object) -> list[Run]:
    """Train every chosen optimizer with every seed into ``out/OPTIMIZER-seedN``.

    Args:
        out: Folder of the run folders.
        resume: Continue unfinished runs.
        force: Start anew where a run exists.
        **options: Fields of `TrainSpec` (``optimizer=("sgd", "sam")``, ``seed=(0, 1)``, ``epochs=30``, ...).

    Returns:
        The finished runs.

    Example:
        >>> import tempfile, landscape
        >>> folder = tempfile.mkdtemp()
        >>> [run] = landscape.train(folder, data="gaussian-domains", model="mlp", steps=5, optimizer=("sam",))
        >>> run.record["status"], run.record["steps"]
        ('finished', 5)
    """
    return train_spec(TrainSpec.from_options(**options), out, resume=resume, force=force)


def train_spec(spec: TrainSpec, out: Path | str = "runs", *, resume: bool = False, force: bool = False) -> list[Run]:
    """As `train`, from a spec; with ``spec.tensorboard`` the figures of each run follow its scalars."""
    if spec.tensorboard:
        library("tensorboard", "tensorboard")
    runs = trainer.train(spec, out, resume=resume, force=force)
    for run in runs if spec.tensorboard else ():
        add_figures(run.path / FOLDER, [training_result(run)], int(run.record["steps"]))
    return runs


def run_study(
    experiment: Path | str,
    out: Path | str | None = None,
    *,
    size: str = "full",
    changes: Sequence[str] = (),
    workers: int | None = None,
    scheduler: str | None = None,
) -> Result:
    """Do what is not done yet of a study, and describe it.

    Args:
        experiment: An experiment file, or the name of a shipped one (``landscape list studies``).
        out: Folder of the study (default: ``studies/NAME``).
        size: ``full`` or ``tiny``.
        changes: ``part.key=value`` that override the file.
        workers: Local worker processes; None: this process.
        scheduler: Address of a dask scheduler instead.

    Returns:
        Of kind ``study``: every model's numbers, and all statistics with their verdicts in the record.

    Raises:
        UsageError: If the experiment is wrong, or no model came through.
        Interrupted: On a signal; the same call goes on.

    Example:
        >>> import pathlib, tempfile, landscape
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "mine.toml"
        >>> _ = file.write_text('''
        ... name = "mine"
        ... title = "Does SAM end elsewhere than SGD?"
        ... train = { data = "gaussian-domains", model = "mlp", steps = 3 }
        ... grid = { optimizer = ["sgd", "sam"] }
        ... seeds = { init = [0, 1] }
        ... report = { outcomes = ["gap_loss"], compare_by = ["test_accuracy"] }
        ... ''')
        >>> found = landscape.run_study(file, file.parent / "study")
        >>> len(found["models"]), found["comparison"]["pairs"][0]["verdict"]
        (4, 'cannot tell')
    """
    read = Experiment.read(find_study(str(experiment)), size=size, changes=changes)
    folder = default_folder(read, Path(out) if out is not None else None)
    do_study(read, folder, workers=workers, scheduler=scheduler)
    return study_statistics(read, folder)
