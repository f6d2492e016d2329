"""Tables with a known relation between measures and gaps, made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from landscape.study.table import Model, Table


def table(
    rows: list[tuple[dict[str, Any], int]],
    outcomes: Mapping[str, Any],
    measures: Mapping[str, Any],
    *,
    repeats: Mapping[str, Any] | None = None,
    n_test: int = 10_000,
    evaluations: Mapping[str, float] | None = None,
) -> Table:
    """A study's table.

    Args:
        rows: Axes and repetition of every model.
        outcomes: A column each.
        measures: A column each.
        repeats: For measures with several measurement seeds, ``(models, seeds)``.
        n_test: Test examples.
        evaluations: Gradient evaluations by optimizer.
    """
    models = []
    for i, (axes, repetition) in enumerate(rows):
        baselines = {
            "learning rate": float(axes.get("lr", 0.1)),
            "batch size": float(axes.get("batch_size", 32)),
            "training loss": 0.01,
            "steps": 100.0,
        }
        arm = str(axes.get("optimizer", "sgd"))
        training = {
            "sizes": {"train": 960, "test": n_test, "unseen": n_test},
            "gradient_evaluations": (evaluations or {}).get(arm, 100.0),
            "training_seconds": 1.0,
            "weights_hash": f"w{i}",
            "steps": 100,
            "selected": None,
        }
        models.append(
            Model(
                f"m{i}",
                arm,
                axes,
                repetition,
                {k: float(v[i]) for k, v in outcomes.items()},
                {**{k: float(v[i]) for k, v in measures.items()}, **baselines},
                {k: list(map(float, v[i])) for k, v in (repeats or {}).items()},
                {"training": training, "analyses": {}},
            )
        )
    return Table(
        models, [], measures=list(measures), baselines=["learning rate", "batch size", "training loss", "steps"]
    )


def grid(lrs: list[float], batches: list[int], seeds: int) -> list[tuple[dict[str, Any], int]]:
    """Every combination of learning rate and batch size, whole repetitions one after another."""
    return [({"lr": lr, "batch_size": b}, s) for s in range(seeds) for lr, b in product(lrs, batches)]


def column(rows: list[tuple[dict[str, Any], int]], axis: str) -> Any:
    return np.array([axes[axis] for axes, _ in rows], dtype=float)
