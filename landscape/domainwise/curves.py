"""The domains at every checkpoint of a run, as curves over training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.progress import report
from ..problem.problem import Problem
from ..weights.checkpoint import read_weights
from ..weights.load_state_dict import load_into

# What becomes a curve of its own for each domain, where it was measured.
FIELDS = (
    "loss",
    "loss_low",
    "loss_high",
    "accuracy",
    "gradient_norm",
    "disam_weight",
    "m_sharpness",
    "gradient_variance",
    "lambda_1",
    "trace",
)
# What is one number at each checkpoint.
TOTALS = ("loss_mean", "loss_variance", "loss_range", "unseen_loss_mean")


def along(problem: Problem, checkpoints: Mapping[int, Path]) -> Iterator[tuple[int, Problem]]:
    """The problem at each checkpoint, by training step."""
    for i, (step, path) in enumerate(checkpoints.items()):
        model = problem.twin()
        load_into(model, read_weights(path), path)
        yield step, problem.with_model(model)
        report("checkpoints", i + 1, len(checkpoints))


def curves(steps: Sequence[int], points: Sequence[Mapping[str, Any]]) -> Any:
    """Labelled arrays over ``step`` and ``(step, domain)``.

    ``normalized_loss`` is each domain's loss scaled to [0, 1] over the checkpoints, as in figure 1 of DISAM
    (arXiv 2405.18861): curves that fall at different times are domains that converge at different times.
    """
    import xarray as xr

    names = list(points[0]["domains"])

    def column(field: str, tables: Sequence[Mapping[str, Any]]) -> Any:
        return np.array([[number(t.get(n, {}).get(field)) for n in names] for t in tables])

    tables = [p["domains"] for p in points]
    over: dict[str, Any] = {
        f: (("step", "domain"), column(f, tables)) for f in FIELDS if any(f in d for d in tables[-1].values())
    }
    over["normalized_loss"] = (("step", "domain"), normalized(over["loss"][1]))
    over["seen"] = ("domain", np.array([tables[-1][n]["seen"] for n in names], dtype=bool))
    for field in TOTALS:
        over[field] = ("step", np.array([number(p[field]) for p in points]))
    over["conflict_share"] = ("step", np.array([number(p["conflict"]["share"]) for p in points]))
    if points[-1]["perturbed"]:
        over["perturbed_loss_variance"] = ("step", np.array([p["perturbed"]["loss_variance"] for p in points]))
    splits = list(points[0]["splits"])
    for field in ("loss", "accuracy"):
        if splits:
            stacked = np.stack([column(field, [p["splits"][s]["domains"] for p in points]) for s in splits])
            over[f"split_{field}"] = (("split", "step", "domain"), stacked)
    coordinates = {"step": list(steps), "domain": names, **({"split": splits} if splits else {})}
    return xr.Dataset(over, coordinates)


def normalized(table: Any) -> Any:
    """Each column scaled to [0, 1]; NaN where it is constant."""
    low, high = table.min(0), table.max(0)
    width = np.where(high > low, high - low, np.nan)
    return (table - low) / width


def number(value: Any) -> float:
    """A number, NaN for None."""
    return np.nan if value is None else float(value)
