"""What a study will cost, from a short probe: a few steps of each kind of training, and every analysis once."""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import LandscapeError
from ..base.progress import report
from ..results.run import Run
from ..runtime.random_state import preserved_random_state
from ..specs import TrainSpec
from ..specs.cells import Cell
from ..specs.study import Analysis, Experiment
from ..training.setup import TrainingInputs, batch_size, open_inputs, seen_positions
from ..training.signals import StopFlag
from ..training.trainer import train_one
from .folder import StudyFolder, state, wanted
from .job import analyse

_STEPS = 12  # of each probed training
_SECONDS = ("training_seconds", "analysis_seconds", "wall_seconds")
_PROBES = 8  # kinds of training that are probed; the others are taken for the mean of these
_EVALUATIONS_OF_A_PROBE = 3  # before the first step, after the last one, and for the record
# What decides how long a step takes.
_KIND = (
    "optimizer", "base", "batch_size", "model", "model_arg", "data", "data_arg", "m", "ascent_steps", "order",
    "sam_every", "langevin_steps", "augment", "accumulate", "dtype", "device", "probe", "amp",
)  # fmt: skip


@dataclass(frozen=True)
class _Pace:
    """Seconds of one step and of one evaluation, and steps of an epoch."""

    step: float
    evaluation: float
    per_epoch: int

    def seconds(self, spec: TrainSpec) -> float:
        epochs = spec.epochs or math.ceil((spec.steps or 1) / self.per_epoch)
        steps = spec.steps or epochs * self.per_epoch
        every = self.per_epoch * (1 if spec.stop_at is not None else math.ceil(epochs / 50))
        return steps * self.step + (steps / every + 2) * self.evaluation


def estimate(experiment: Experiment, folder: StudyFolder, *, workers: int | None = None) -> dict[str, Any]:
    """How long what is left of a study will take.

    Args:
        experiment: The study.
        folder: What is done there is not counted.
        workers: Local processes that share the work.

    Returns:
        ``training_seconds`` and ``analysis_seconds`` of one process, ``wall_seconds`` on ``workers``; ``upper_bound``
        where trainings stop early; ``probes`` with what was measured; ``notes`` on what could not be. Seconds are
        None where no probe came through.
    """
    left = _left(experiment, folder)
    if not left:
        return {**dict.fromkeys(_SECONDS, 0.0), "probes": [], "notes": []}
    trainings = [c.spec for c, _ in left]
    trainings += dict.fromkeys(
        c.start for c, _ in left if c.start and not Run.is_run(folder.pretraining(c.start).path)
    )
    kinds: dict[Any, list[TrainSpec]] = {}
    for spec in trainings:
        kinds.setdefault(_kind(spec), []).append(spec)
    chosen = sorted(kinds.values(), key=len, reverse=True)[:_PROBES]
    paces: dict[Any, _Pace] = {}
    notes: list[str] = []
    analyses: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="landscape-probe-") as scratch, preserved_random_state():
        for i, specs in enumerate(chosen):
            report("probes", i, len(chosen), specs[0].name)
            try:
                pace, run = _probe(specs[0], Path(scratch) / str(i))
            except LandscapeError as error:
                notes.append(f"a probe failed, as its trainings may: {error}")
                continue
            paces[_kind(specs[0])] = pace
            if not analyses:
                analyses = _time_analyses(experiment.analyses, run, notes)
        report("probes", len(chosen), len(chosen))
    usual = _mean(list(paces.values()))
    notes = list(dict.fromkeys(notes))  # what fails in one kind of training often fails in all
    if not usual:
        return {**dict.fromkeys(_SECONDS), "probes": [], "notes": notes}
    training = sum(paces.get(_kind(s), usual).seconds(s) for s in trainings)
    analysing = sum(analyses.get(_name(a), 0.0) for _, asked in left for a, _ in asked)
    if len(kinds) > len(chosen):
        notes.append(f"{len(kinds) - len(chosen)} more kinds of training are taken for the mean of the probed ones")
    return {
        "training_seconds": round(training, 1),
        "analysis_seconds": round(analysing, 1),
        "wall_seconds": round((training + analysing) / (workers or 1), 1),
        "upper_bound": experiment.stop_at is not None,
        "probes": [
            {
                "optimizer": k[0][0],
                "batch_size": k[2],
                "step_seconds": p.step,
                "evaluation_seconds": p.evaluation,
            }
            for k, p in paces.items()
        ],
        "analyses": [{"analysis": k, "seconds": round(v, 3)} for k, v in analyses.items()],
        "notes": notes,
    }


def _left(experiment: Experiment, folder: StudyFolder) -> list[tuple[Cell, list[tuple[Analysis, int]]]]:
    found = []
    for cell in experiment.cells:
        asked = wanted(experiment, cell)
        if state(folder.record(cell), [a.key(s) for a, s in asked]) not in ("done", "failed"):
            found.append((cell, asked))
    return found


def _kind(spec: TrainSpec) -> object:
    return tuple(getattr(spec, name) for name in _KIND)


def _probe(spec: TrainSpec, folder: Path) -> tuple[_Pace, Run]:
    few = spec.with_(epochs=None, steps=_STEPS, stop_at=None, select="last", average="none")
    ingredients = open_inputs(few)
    started = time.perf_counter()
    run = train_one(few, ingredients, folder, StopFlag())
    total = time.perf_counter() - started
    clock = [line["seconds"] for line in run.metrics() if "seconds" in line]
    steps = [b - a for a, b in itertools.pairwise(clock)]
    step = statistics.median(steps) if steps else total / _STEPS
    evaluation = max(0.0, total - _STEPS * step) / _EVALUATIONS_OF_A_PROBE
    return _Pace(step, evaluation, _per_epoch(few, ingredients)), run


def _per_epoch(spec: TrainSpec, ingredients: TrainingInputs) -> int:
    n = len(seen_positions(ingredients.splits, "train", spec.holdout))
    return -(-n // batch_size(spec, n))


def _time_analyses(analyses: Sequence[Analysis], run: Run, notes: list[str]) -> dict[str, float]:
    """Seconds of every analysis on a barely trained network; the first one also loads what all need."""
    found = {}
    for analysis in analyses:
        entry = analyse(run, analysis, 0)
        found[_name(analysis)] = float(entry["seconds"])
        if entry["status"] == "failed":
            notes.append(f"{analysis.kind} failed on the probe, after {_STEPS} steps: {entry['reason']}")
    return found


def _name(analysis: Analysis) -> str:
    return f"{analysis.kind} {analysis.label or analysis.key(0)[:6]}"


def _mean(paces: Sequence[_Pace]) -> _Pace | None:
    if not paces:
        return None
    return _Pace(
        statistics.fmean(p.step for p in paces),
        statistics.fmean(p.evaluation for p in paces),
        round(statistics.fmean(p.per_epoch for p in paces)),
    )
