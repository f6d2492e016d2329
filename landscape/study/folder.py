"""A study's folder: it can be killed at any instant, and what is finished is never done again.

STUDY/study.json             the experiment as it was understood
STUDY/runs/MODEL/            run folders, named by arm and hash of the training spec, with their stored analyses
STUDY/pretrained/MODEL/      runs from which others start
STUDY/jobs/MODEL/record.json how training and analyses of a model ended, and the numbers of the study
STUDY/study.nc               all numbers and statistics, written by correlate and report
STUDY/report/                page, tables and figures
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base.errors import DataError, UsageError
from ..base.files import folder_lock, make_folder, read_json, write_json
from ..results.run import Run
from ..specs.cells import Cell, spread
from ..specs.seeds import SeedsSpec
from ..specs.study import Analysis, Experiment
from ..specs.train import TrainSpec

Record = dict[str, Any]


class StudyFolder:
    """The folder of one study. Reading needs no lock."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def run(self, cell: Cell) -> Run:
        """The run of a model."""
        return Run(self.path / "runs" / cell.name)

    def pretraining(self, spec: TrainSpec) -> Run:
        """The run that others start from."""
        return Run(self.path / "pretrained" / f"{spec.optimizer[0]}-{spec.lasting_key()[:10]}")

    def job(self, cell: Cell) -> Path:
        """The folder with the record and the lock of a model."""
        return self.path / "jobs" / cell.name

    def record(self, cell: Cell) -> Record:
        """How a model's training and analyses ended; empty if it was not begun.

        Raises:
            DataError: If the record is damaged.
        """
        file = self.job(cell) / "record.json"
        if not file.is_file():
            return {}
        found = read_json(file)
        if not isinstance(found, dict) or not isinstance(found.get("analyses"), dict):
            raise DataError("this is no record of a model", str(file), "delete it: the model is done again")
        return found

    def keep(self, cell: Cell, record: Record) -> None:
        """Write a model's record."""
        write_json(self.job(cell) / "record.json", record)

    @contextmanager
    def writing(self, experiment: Experiment) -> Iterator[None]:
        """Be the only ``study run`` here, and leave the experiment beside the results.

        Raises:
            UsageError: If another process runs the study, or the folder holds another one.
        """
        file = self.path / "study.json"
        if file.is_file():
            there = read_json(file).get("name")
            if there != experiment.name:
                raise UsageError(
                    f"the folder holds the study {there!r}", str(self.path), "choose another `out=`, or delete it"
                )
        elif self.path.is_dir() and any(not p.name.startswith(".") for p in self.path.iterdir()):
            raise UsageError("the folder holds other files", str(self.path), "choose another `out=`")
        with folder_lock(make_folder(self.path)):
            write_json(
                file,
                {
                    "version": 1,
                    "name": experiment.name,
                    "size": experiment.size,
                    "experiment": experiment.content,
                    "models": [
                        {"name": c.name, "arm": c.arm, "axes": c.axes, "repetition": c.repetition}
                        for c in experiment.cells
                    ],
                },
            )
            yield


def wanted(experiment: Experiment, cell: Cell) -> list[tuple[Analysis, int]]:
    """Every analysis of a model, with each measurement seed."""
    return [
        (analysis, seed)
        for analysis in experiment.analyses
        if analysis.models is None or cell in list(spread(experiment.cells, analysis.models))
        for seed in measurement_seeds(analysis, experiment.seeds)
    ]


def measurement_seeds(analysis: Analysis, seeds: SeedsSpec) -> tuple[int, ...]:
    """The seeds with which an analysis is repeated."""
    return analysis.seeds or seeds.measurement


def state(record: Record, keys: Sequence[str], *, retry: bool = False) -> str:
    """``done``, ``failed``, ``begun`` or ``to do``.

    Args:
        record: Of a model.
        keys: Of the analyses it is asked for.
        retry: What failed counts as not done.
    """
    training = record.get("training")
    if not training:
        return "begun" if record else "to do"
    ends = [training["status"], *(record["analyses"].get(k, {}).get("status") for k in keys)]
    if training["status"] == "failed":
        return "begun" if retry else "failed"
    if None in ends or (retry and "failed" in ends):
        return "begun"
    return "failed" if "failed" in ends else "done"
