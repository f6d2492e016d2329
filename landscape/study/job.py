"""One model of a study: train it, analyse it, keep the numbers; each step once, whatever dies in between."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..analyses.analyze import analyze
from ..base.errors import Interrupted, LandscapeError, is_out_of_memory
from ..base.files import folder_lock, is_out_of_space
from ..results.run import Run
from ..results.target import Target
from ..runtime.random_state import preserved_random_state
from ..specs.cells import Cell
from ..specs.study import Analysis
from ..specs.train import TrainSpec
from ..training.setup import TrainingInputs, open_inputs, seen_positions
from ..training.signals import StopFlag
from ..training.trainer import config_hash, train_one
from . import values
from .folder import Record, StudyFolder
from .made_of import code_of, current

log = logging.getLogger(__name__)

# What has to be alike for the numbers of two models to be compared.
_CHECKED = (
    *("data_hash", "weights_hash", "n_examples", "dtype", "device", "split"),
    *("mode", "replay_seed", "loss_over", "loss_function", "loss_hash", "torch"),
)


@dataclass(frozen=True)
class Job:
    """What a worker needs to know, and nothing that cannot travel.

    Attributes:
        study: The study's folder, on a file system that all workers share.
        cell: The model.
        analyses: Each with a measurement seed.
        threads: Threads of torch; None leaves them as they are.
        retry: Do what failed again.
    """

    study: str
    cell: Cell
    analyses: tuple[tuple[Analysis, int], ...]
    threads: int | None = None
    retry: bool = False


def work(job: Job, stop: StopFlag | None = None) -> Record:
    """Do what is missing of a job and return the model's record.

    What fails for reasons of its own is recorded and raises nothing.

    Raises:
        Interrupted: When ``stop`` was set; everything needed to continue is kept.
        ResourceError: If the disk is full.
    """
    stop = stop or StopFlag()
    folder, cell = StudyFolder(job.study), job.cell
    if job.threads:
        import torch

        torch.set_num_threads(job.threads)
    # A worker that was given up may still be at it, or a killed study's worker may still be dying.
    with folder_lock(folder.job(cell), wait=True), preserved_random_state():
        record, dropped = current(folder.record(cell), cell, job.analyses, examples=True)
        if dropped:
            log.warning("%s was made of other code or data and is done again: %s", cell.name, ", ".join(dropped))
        if not record:
            record = {"name": cell.name, "training": None, "analyses": {}}
            folder.keep(cell, record)
        if _is_missing(record["training"], job.retry):
            record["training"] = _train(folder, cell, stop)
            folder.keep(cell, record)
        if record["training"]["status"] == "done":
            for analysis, seed in job.analyses:
                if stop:
                    raise Interrupted(f"stopped by {stop.signal}", str(folder.path), "run the same command again")
                key = analysis.key(seed)
                if _is_missing(record["analyses"].get(key), job.retry):
                    record["analyses"][key] = analyse(folder.run(cell), analysis, seed)
                    folder.keep(cell, record)
    return record


def give_up(job: Job, reason: str) -> Record:
    """Record that a job cannot be done, since it takes its workers down with it."""
    folder = StudyFolder(job.study)
    with folder_lock(folder.job(job.cell), wait=True):
        record = folder.record(job.cell) or {"name": job.cell.name, "training": None, "analyses": {}}
        failed = {"status": "failed", "error": "lost worker", "reason": reason, "seconds": None}
        if record["training"] is None:
            record["training"] = failed
        else:
            for analysis, seed in job.analyses:
                record["analyses"].setdefault(analysis.key(seed), {**failed, "kind": analysis.kind, "seed": seed})
        folder.keep(job.cell, record)
    return record


def _is_missing(entry: Record | None, retry: bool) -> bool:
    return entry is None or (retry and entry["status"] == "failed")


def _train(folder: StudyFolder, cell: Cell, stop: StopFlag) -> Record:
    run = folder.run(cell)
    with _recorded() as entry:
        spec = cell.spec if cell.start is None else cell.spec.with_(init=str(_pretrained(folder, cell.start, stop)))
        ingredients = _trained(run, spec, stop)
        splits, holdout = ingredients.splits, spec.holdout
        seen = {name: len(seen_positions(splits, name, holdout)) for name in splits}
        sizes = {**seen, "unseen": sum(map(len, splits.values())) - sum(seen.values())}
        record = run.record
        entry |= {
            "sizes": sizes,
            "outcomes": values.outcomes(run),
            "baselines": values.baselines(run, sizes),
            "course": values.course(run),
            "stopped": record.get("stopped"),
            "selected": record.get("selected"),
            "steps": record["steps"],
            "gradient_evaluations": record["gradient_evaluations"],
            "training_seconds": record["seconds"],
            "weights_hash": record["weights_hash"],
            "data_hash": record["ingredients"]["data_hash"],
            "code": code_of("training", cell.spec),
        }
    return entry


def _pretrained(folder: StudyFolder, spec: TrainSpec, stop: StopFlag) -> Path:
    """The last weights of a pretraining, which the first job that asks for them trains while others wait."""
    run = folder.pretraining(spec)
    with folder_lock(folder.path / "jobs" / f"pretrained-{run.path.name}", wait=True):
        _trained(run, spec, stop)
    return run.checkpoint()


def _trained(run: Run, spec: TrainSpec, stop: StopFlag) -> TrainingInputs:
    """Train what is missing of a run, and return what it was made of."""
    ingredients = open_inputs(spec)
    # The folder is the study's own: what lies there without a run.json was left by a kill, and a half-done run
    # of another release or of other data cannot be continued.
    fresh = not Run.is_run(run.path) or run.record.get("config_hash") != config_hash(spec, ingredients)
    train_one(spec, ingredients, run.path, stop, resume=not fresh, force=fresh)
    return ingredients


def analyse(run: Run, analysis: Analysis, seed: int) -> Record:
    """One analysis of one run: its numbers, or why there are none."""
    with _recorded() as entry:
        code = code_of(analysis.kind, analysis.problem)
        entry |= {"kind": analysis.kind, "seed": seed, "values": {}, "results": [], "code": code}
        spec = analysis.problem.with_(seed=seed)
        for target in _targets(run, analysis.checkpoint):
            # The study names its own runs, so their plug-ins are those of the experiment file.
            result = analyze(analysis.kind, target, spec, analysis.spec, trust=True)
            entry["values"] |= values.measures(result, analysis)
            entry["results"].append(str(Path(str(result.path)).relative_to(run.path)))
            entry["control"] = values.controls(result)
            entry["checked"] = {k: result.record.get(k) for k in _CHECKED}
    return entry


def _targets(run: Run, checkpoint: str) -> Iterator[Target]:
    if checkpoint == "all":
        yield from (Target(path, run) for path in run.checkpoints().values())
    else:
        which = {"last": "", "start": "step=0"}.get(checkpoint, checkpoint)
        yield Target(run.checkpoint(which), run)


@contextmanager
def _recorded() -> Iterator[Record]:
    """Fill the entry inside the block; an error that is the job's own becomes part of it."""
    entry: Record = {"status": "done"}
    started = time.monotonic()
    try:
        yield entry
    except Exception as error:
        full = is_out_of_space(error) or (error.__cause__ is not None and is_out_of_space(error.__cause__))
        if isinstance(error, Interrupted) or full:
            raise
        entry |= {"status": "failed", "error": type(error).__name__, "reason": _reason(error)}
        log.info("failed, and recorded: %s", entry["reason"])
    entry["seconds"] = round(time.monotonic() - started, 3)


def _reason(error: Exception) -> str:
    if isinstance(error, LandscapeError):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory: use a smaller batch, model or subset, or fewer workers"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
