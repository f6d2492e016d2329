"""What every surface says about itself: the checks that tell a picture of the network from a picture of a bug."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..numerics.tensors import as_real
from ..problem.problem import Problem
from ..runtime.devices import wide
from .directions.direction import Direction
from .directions.random import expected_cosine, filter_norm_error
from .evaluate.batchnorm import batchnorm_layers
from .evaluate.evaluator import Evaluator


def axis_checks(problem: Problem, directions: Sequence[Direction]) -> dict[str, object]:
    """Norms, angle, filter norms, and which parameters move, stay or are frozen."""
    size = float(torch.linalg.vector_norm(wide(problem.weights)))
    filters = [filter_norm_error(problem, d) for d in directions if d.kind == "filter"]
    moved = [any(bool(d.tensors[i].any()) for d in directions) for i in range(len(problem.space.names))]
    pair = directions[:2] if len(directions) == 2 else None
    kinds = {d.kind for d in directions}
    every = sum(as_real(p.detach()).numel() for p in problem.model.parameters())
    moving = sum(n for n, m in zip(problem.space.sizes, moved, strict=True) if m)
    return {
        "cosine": pair[0].cosine(pair[1]) if pair else None,
        "expected_cosine": expected_cosine(problem, kinds.pop()) if pair and len(kinds) == 1 else None,
        "weight_norm": size,
        "relative_norm": directions[0].norm / size if size else None,
        "filter_norm_error": max(filters) if filters else None,
        "moved_tensors": sum(moved),
        "moved_parameters": moving,
        "zeroed_tensors": len(moved) - sum(moved),
        "zeroed_parameters": problem.n_parameters - moving,
        "frozen_parameters": every - problem.n_parameters,
        "fixed_parameters": every - moving,
        "moved_buffers": 0,
    }


def value_checks(
    loss: Any, coordinates: dict[str, Any], centre: float, evaluated: object = None
) -> dict[str, object]:
    """Cells that are no numbers, the lowest cell, whether the centre is it, and the largest jump.

    All of it from evaluated cells: an interpolated one is no evidence.

    Args:
        loss: ``(y, x)``, ``(x,)`` or ``(repeat, x)``.
        coordinates: ``x`` and ``y``.
        centre: Loss at the centre.
        evaluated: Which cells were evaluated; None: all.
    """
    counted = loss if evaluated is None else loss[evaluated]
    known = np.isfinite(loss) if evaluated is None else np.isfinite(loss) & evaluated
    finite = np.where(known, loss, np.inf)
    notes = []
    minimum = place = None
    if np.isfinite(finite).any():
        where = np.unravel_index(int(finite.argmin()), finite.shape)
        minimum = float(finite[where])
        names = ["y", "x"][-finite.ndim :] if "y" in coordinates or finite.ndim == 1 else ["repeat", "x"]
        pairs = zip(names, where, strict=True)
        place = {n: float(coordinates[n][i]) if n in coordinates else int(i) for n, i in pairs}
        if minimum < centre - 1e-6 * abs(centre):
            notes.append(f"the centre is not the lowest point: {minimum:.6g} lies below {centre:.6g}")
    with np.errstate(all="ignore"):
        logs = np.log10(np.where(known & (loss > 0), loss, np.nan))
        axes = range(logs.ndim) if "y" in coordinates else [logs.ndim - 1]
        jumps = [np.abs(np.diff(logs, axis=a)) for a in axes]
    largest = max((float(np.nanmax(j)) for j in jumps if np.isfinite(j).any()), default=None)
    return {
        "minimum": minimum,
        "minimum_at": place,
        "nan_cells": int(np.isnan(counted).sum()),
        "infinite_cells": int(np.isinf(counted).sum()),
        "largest_jump": largest,
        "notes": notes,
    }


def statistics_checks(walker: Evaluator) -> dict[str, Any]:
    """How BatchNorm was treated, and what its statistics were estimated from."""
    used = walker.training if walker.policy == "recalibrate" else None
    return {
        "bn_policy": walker.policy,
        "batchnorm_layers": len(batchnorm_layers(walker.problem.model)),
        "calibration_examples": used.n_examples if used else None,
        "calibration_batch": used.batch_size if used else None,
        "calibration_data_hash": used.data_hash if used else None,
    }
