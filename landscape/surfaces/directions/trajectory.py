"""Where trainings went: one plane for the checkpoints of several runs, by principal components.

The rows x_t = θ_t − θ_ref of all runs are taken about one common reference, the problem's own weights, and are
not centred: the plane goes through that point. The components come from the Gram matrix K = X Xᵀ of T x T
numbers, never from a matrix of parameters by parameters; only a few snapshots are in memory at a time.

A high share of the squared distances alone proves little: the components of a random walk are concentrated, too
(arXiv 1806.08805).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.errors import UsageError
from ...base.progress import report
from ...problem.problem import Problem
from ...runtime.devices import wide
from .direction import Direction, centre_of, inner
from .snapshots import Snapshot

_BLOCK = 8


def evenly(steps: Sequence[object], count: int) -> list[Any]:
    """``count`` of ``steps``, spread evenly, the first and the last among them."""
    places = np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))
    return [steps[i] for i in places]


def offsets(problem: Problem, snapshots: Sequence[Snapshot]) -> list[list[Tensor]]:
    """θ_t − θ_ref of some snapshots."""
    centre = centre_of(problem)
    return [list(torch._foreach_sub(s.weights(), centre)) for s in snapshots]


def gram_matrix(problem: Problem, snapshots: Sequence[Snapshot]) -> Any:
    """K = X Xᵀ, ``(T, T)`` float64; reads each snapshot T / 8 times and holds nine."""
    total = len(snapshots)
    gram = np.zeros((total, total))
    for start in range(0, total, _BLOCK):
        block = offsets(problem, snapshots[start : start + _BLOCK])
        for j in range(start, total):
            row = block[j - start] if j < start + len(block) else offsets(problem, [snapshots[j]])[0]
            for i, member in enumerate(block, start):
                gram[i, j] = gram[j, i] = inner(member, row)
        report("gram matrix", min(start + _BLOCK, total), total)
    return gram


def components(problem: Problem, runs: Sequence[Sequence[Snapshot]], count: int) -> list[Direction]:
    """The first ``count`` principal components of all snapshots, orthonormal, largest-magnitude entry positive.

    Raises:
        UsageError: If the snapshots do not span so many dimensions.
    """
    snapshots = [s for run in runs for s in run]
    gram = gram_matrix(problem, snapshots)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    rank = int((values > 1e-12 * max(values[0], 1e-300)).sum())
    if rank < count or values[0] == 0:
        what = f"{len(snapshots)} checkpoints span {rank} dimension(s), {count} are needed"
        raise UsageError(what, "`direction='pca'`", "train with `save_every=`, or name more runs")
    found: list[list[Tensor]] = [
        [torch.zeros_like(t, dtype=torch.float64) for t in centre_of(problem)] for _ in range(count)
    ]
    for t, snapshot in enumerate(snapshots):
        row = [wide(o) for o in offsets(problem, [snapshot])[0]]
        for k, direction in enumerate(found):
            torch._foreach_add_(direction, row, alpha=float(vectors[t, k] / np.sqrt(values[k])))
    directions = []
    for k, tensors in enumerate(found, 1):
        flat = torch.cat([t.reshape(-1) for t in tensors])
        sign = -1.0 if flat[flat.abs().argmax()] < 0 else 1.0
        unit = [(t * (sign / float(flat.norm()))).to(problem.dtype) for t in tensors]
        # Of the squared distances from θ_ref: of the variance it would be about the mean of the checkpoints.
        facts = {"explained_variance": float(values[k - 1] / values.sum()), "centred": False}
        directions.append(Direction(f"pca:{k}", unit, facts=facts))
    return directions


def project(problem: Problem, snapshot: Snapshot, axes: Sequence[Direction]) -> tuple[list[float], float, float]:
    """Coordinates of a checkpoint in a plane through the problem's weights, and how far it lies off the plane.

    Args:
        problem: Its weights are the origin.
        snapshot: The checkpoint.
        axes: Directions, not necessarily orthonormal.

    Returns:
        Coordinates in units of the axes (least squares), the distance to the plane, and the distance from the origin.
    """
    row = [wide(o) for o in offsets(problem, [snapshot])[0]]
    matrix = np.array([[a.dot(b) for b in axes] for a in axes])
    coordinates = np.linalg.solve(matrix, np.array([inner(a.tensors, row) for a in axes]))
    rest = [r.clone() for r in row]
    for x, axis in zip(coordinates, axes, strict=True):
        torch._foreach_add_(rest, [wide(t) for t in axis.tensors], alpha=-float(x))
    return [float(x) for x in coordinates], float(np.sqrt(inner(rest, rest))), float(np.sqrt(inner(row, row)))
