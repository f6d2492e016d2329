"""The logged course of a training as a result."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.errors import DataError, LandscapeError
from ..storage.record_form import LoggedRecord
from ..storage.stored_form import require_fields
from .result import Result
from .run import Run
from .target import arm, made_of


def training_result(run: Run) -> Result:
    """The logged course of a run as a result, for figures.

    Returns:
        Over ``step`` (every optimizer step): ``batch_loss``; over ``eval_step``: losses, accuracies and
        ``domain_loss_variance``; over ``(eval_step, domain)``: ``domain_loss`` and ``domain_accuracy`` of the
        training split. Each quantity of a probe, like ``surrogate_gap_h``, over ``PROBE_step``.

    Raises:
        DataError: If the log or ``run.json`` is not of the form that trainings write.

    Example:
        >>> import tempfile, landscape
        >>> folder = tempfile.mkdtemp()
        >>> [run] = landscape.train(folder, data="gaussian-domains", model="mlp", steps=5, optimizer=("sam",))
        >>> landscape.training_result(run).kind
        'training'
    """
    try:
        lines = run.metrics()
        require_fields("a line of the log", lines, list[LoggedRecord])
        return _result(run, lines)
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, LandscapeError):
            raise
        log = str(run.path / "metrics.jsonl")
        raise DataError(f"the log of this run is damaged: {error}", log, "restore it, or train anew") from error


def _result(run: Run, lines: list[dict[str, Any]]) -> Result:
    import xarray as xr

    steps = [line for line in lines if line.get("loss") is not None]
    scored = [line for line in lines if line.get("evaluation")]
    names = list((scored[0]["evaluation"].get("domains") or {}) if scored else {})
    fields = [k for k, v in (scored[-1]["evaluation"] if scored else {}).items() if isinstance(v, float)]

    def column(rows: list[dict[str, Any]], field: str) -> Any:
        return np.array([np.nan if r.get(field) is None else r[field] for r in rows], dtype=float)

    variables: dict[str, Any] = {"batch_loss": ("step", column(steps, "loss"))}
    for field in fields:
        variables[field] = ("eval_step", column([r["evaluation"] for r in scored], field))
    if names:
        for field, source in (("domain_loss", "train_loss"), ("domain_accuracy", "train_accuracy")):
            table = [column([r["evaluation"]["domains"][n] for n in names], source) for r in scored]
            variables[field] = (("eval_step", "domain"), np.stack(table))
    coordinates: dict[str, Any] = {
        "step": [r["step"] for r in steps],
        "eval_step": [r["step"] for r in scored],
        "epoch": ("eval_step", column(scored, "epoch")),
    }
    if names:
        coordinates["domain"] = names
    for probe in dict.fromkeys(p for line in lines for p in line.get("probes") or ()):
        taken = [line for line in lines if probe in (line.get("probes") or {})]
        stem = probe.replace("-", "_")
        coordinates[f"{stem}_step"] = [line["step"] for line in taken]
        for quantity in taken[0]["probes"][probe]:
            values = column([line["probes"][probe] for line in taken], quantity)
            variables[f"{stem}_{quantity}"] = (f"{stem}_step", values)
    record = run.record
    spec = record["spec"]
    facts = {
        "path": str(run.path),
        "optimizer": arm(spec),
        "seed": spec["seed"][0],
        "step": record.get("steps"),
        **made_of(record),
    }
    return Result(
        "training",
        xr.Dataset(variables, coordinates),
        {
            "target": str(run.path),
            "run": facts,
            "spec": spec,
            "holdout": spec.get("holdout") or [],
            "unseen": [n for n in names if not scored[-1]["evaluation"]["domains"][n]["seen"]],
            "final": record.get("final"),
            "status": record.get("status"),
            **{k: record.get(k) for k in ("ingredients", "origins", "versions")},
        },
    )
