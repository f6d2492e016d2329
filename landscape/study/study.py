"""The verbs of a study: plan, run, status, and the statistics of what is finished."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import UsageError
from ..base.files import folder_lock
from ..results.result import Result
from ..specs.claims import ClaimSpec
from ..specs.study import Experiment, StudyReportSpec
from .claims import answers
from .folder import StudyFolder, state, wanted
from .job import Job
from .made_of import current
from .schedule import do, threads_per_worker
from .statistics.comparison import compared, undecidable
from .statistics.correlation import correlations, radii
from .table import Table, collect

log = logging.getLogger(__name__)

_KEPT = ("weights_hash", "steps", "gradient_evaluations", "selected")  # of each training, for the record


def run(
    experiment: Experiment,
    folder: StudyFolder,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    retry: bool = False,
) -> dict[str, Any]:
    """Do everything of a study that is not done yet; what its report could not answer is said or refused first.

    Args:
        experiment: What to do.
        folder: Where; a folder of the same study is continued.
        workers: Local worker processes; None: this process.
        scheduler: Address of a dask scheduler instead.
        retry: Do again what failed.

    Returns:
        The `status` afterwards.

    Raises:
        Interrupted: On a signal; the same call goes on.
        UsageError: If the folder is in use or holds something else, or the report names an axis or a baseline that
            there is not.
        ResourceError: If the disk is full.
    """
    for note in undecidable(experiment.cells, experiment.report):
        log.warning("%s", note)
    with folder.writing(experiment):
        do(jobs(experiment, folder, workers=workers, retry=retry), workers=workers, scheduler=scheduler)
        _forget_dead_writers(folder)
    return status(experiment, folder)


def _forget_dead_writers(folder: StudyFolder) -> None:
    """Remove what says that a job is being done, where it was killed after all of it was done."""
    for owner in sorted((folder.path / "jobs").glob("*/.lock-owner")):
        with contextlib.suppress(UsageError), folder_lock(owner.parent):
            pass


def jobs(
    experiment: Experiment, folder: StudyFolder, *, workers: int | None = None, retry: bool = False
) -> list[Job]:
    """What is left to do, whole repetitions first."""
    threads = threads_per_worker(workers) if workers else None
    left = []
    for cell in experiment.cells:
        asked = wanted(experiment, cell)
        record, _ = current(folder.record(cell), cell, asked, examples=True)
        if state(record, [a.key(s) for a, s in asked], retry=retry) not in ("done", "failed"):
            left.append(Job(str(folder.path), cell, tuple(asked), threads, retry))
    return left


def status(experiment: Experiment, folder: StudyFolder) -> dict[str, Any]:
    """How far a study is.

    Returns:
        ``models`` and their number by ``done``, ``failed``, ``begun``, ``to do``; the same by ``arms``;
        ``failures`` with reasons; ``changed``, the models that were made of other code; ``seconds`` spent.
    """
    counts: Counter[str] = Counter({"done": 0, "failed": 0, "begun": 0, "to do": 0})
    arms: dict[str, Counter[str]] = {}
    failures, seconds, changed = [], 0.0, []
    for cell in experiment.cells:
        asked = wanted(experiment, cell)
        record, dropped = current(folder.record(cell), cell, asked)
        now = state(record, [a.key(s) for a, s in asked])
        changed += [cell.name] if dropped else []
        counts[now] += 1
        arms.setdefault(cell.arm, Counter())[now] += 1
        for what, entry in _entries(record):
            seconds += entry.get("seconds") or 0.0
            if entry["status"] == "failed":
                failures.append({"model": cell.name, "what": what, "reason": entry["reason"]})
    return {
        "study": experiment.name,
        "size": experiment.size,
        "folder": str(folder.path),
        "models": len(experiment.cells),
        **counts,
        "arms": {k: dict(v) for k, v in arms.items()},
        "failures": failures,
        "changed": changed,
        "seconds": round(seconds, 1),
    }


def _entries(record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if record.get("training"):
        yield "training", record["training"]
    for entry in record.get("analyses", {}).values():
        yield f"{entry.get('kind', 'analysis')}, seed {entry.get('seed')}", entry


def statistics(experiment: Experiment, folder: StudyFolder) -> Result:
    """All numbers and statistics of the finished models, stored as ``study.nc``.

    Returns:
        Over ``(model, outcome)`` and ``(model, measure)`` the numbers; the statistics in the record:
        ``correlations``, ``outcomes``, ``comparison``, ``radii``, ``controls``, ``dropped`` and ``models``.

    Raises:
        UsageError: If no model is finished.
    """
    table = collect(experiment, folder)
    if not table.models:
        raise UsageError("no model is finished", str(folder.path), "run `landscape study run` first")
    facts = {
        "study": experiment.name,
        "label": experiment.name,
        "title": experiment.title,
        "claim": experiment.claim,
        "refuted_by": experiment.refuted_by,
        "decides": experiment.decides,
        "size": experiment.size,
        "planned": len(experiment.cells),
        "seeds": experiment.seeds.to_dict(),
        "stop_at": experiment.stop_at,
        "selection": sorted({c.spec.select for c in experiment.cells}),
        "experiment": experiment.content,
    }
    result = describe(table, experiment.report, facts, experiment.claims)
    result.save(folder.path / "study.nc")
    return result


def describe(
    table: Table, spec: StudyReportSpec, facts: Mapping[str, object], claims: Sequence[ClaimSpec] = ()
) -> Result:
    """All statistics of a table of models as a result; ``facts`` of the experiment go into its record."""
    rows, outcomes = correlations(table, spec)
    comparison = compared(table, spec)
    record = {
        "target": None,
        **facts,
        "models": [
            {
                "name": m.name,
                "arm": m.arm,
                "axes": m.axes,
                "repetition": m.repetition,
                **{k: m.record["training"][k] for k in _KEPT},
            }
            for m in table.models
        ],
        "configurations": len({m.configuration for m in table.models}),
        "repetitions": table.repetitions,
        "dropped": table.dropped,
        "failed_analyses": table.failed_analyses,
        "outcomes": outcomes,
        "correlations": rows,
        "comparison": comparison,
        "claims": answers(claims, table, spec, comparison, rows),
        "radii": radii(table),
        "controls": table.controls,
        "uniform": table.uniform,
        "report": spec.to_dict(),
    }
    return Result("study", _dataset(table), record)


def _dataset(table: Table) -> Any:
    import xarray as xr

    outcomes = list(dict.fromkeys(k for m in table.models for k in m.outcomes))
    predictors = [*table.measures, *table.courses, *table.baselines]

    def matrix(names: list[str]) -> Any:
        return np.stack([table.column(n) for n in names], 1) if names else np.zeros((len(table.models), 0))

    return xr.Dataset(
        {
            "outcome_value": (("model", "outcome"), matrix(outcomes)),
            "value": (("model", "measure"), matrix(predictors)),
        },
        {
            "model": [m.name for m in table.models],
            "outcome": np.array(outcomes, dtype=str),
            "measure": np.array(predictors, dtype=str),
            "arm": ("model", [m.arm for m in table.models]),
            "repetition": ("model", [m.repetition for m in table.models]),
        },
    )


def default_folder(experiment: Experiment, out: Path | None) -> StudyFolder:
    """The folder asked for, or ``studies/NAME`` (``studies/NAME-tiny``)."""
    name = experiment.name + ("" if experiment.size == "full" else f"-{experiment.size}")
    return StudyFolder(out or Path("studies") / name)
