"""Planes through checkpoints: the loss on a grid, and where other checkpoints lie in it and how far off.

A plane shows its own points. A checkpoint beside it has another loss than its projection, so each one's distance
from the plane and its measured loss stand beside the loss of the plane below it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..base.errors import UsageError
from ..base.progress import report
from ..problem.problem import Problem
from ..problem.require import rows_shared_out
from ..results.result import Result
from ..runtime.devices import wide
from ..specs import SurfaceSpec
from .checks import statistics_checks
from .directions.direction import Direction, centre_of, inner, named_tensors
from .directions.parse import directions_of
from .directions.snapshots import Snapshot
from .directions.trajectory import project
from .evaluate.assemble import picture
from .evaluate.batchnorm import calibrating, running_statistics
from .evaluate.evaluator import Evaluator, evaluating, state_of, statistics_policy
from .evaluate.grid import covering_values, grid_passes
from .evaluate.row_cache import RowCache, cache_key

_COLLINEAR = 1e-6


def plane_axes(problem: Problem, second: Snapshot, third: Snapshot) -> list[Direction]:
    """Orthonormal axes of the plane through the problem's weights and two other checkpoints.

    u = (w2 − w1)/‖w2 − w1‖, and v the rest of w3 − w1 orthogonal to u, of length 1 (arXiv 1802.10026).

    Raises:
        UsageError: If the three lie on a line, or two of them are equal.
    """
    own = running_statistics(problem.model)
    offsets: list[list[Tensor]] = []
    changes: list[dict[str, Tensor]] = []
    for snapshot in (second, third):
        weights, statistics = snapshot.load()
        offsets.append([wide(w - c) for w, c in zip(weights, centre_of(problem), strict=True)])
        changes.append({k: wide(statistics[k] - own[k]) for k in own})
    (to_second, to_third), (change_second, change_third) = offsets, changes
    length = math.sqrt(inner(to_second, to_second))
    if length == 0:
        raise UsageError("the first two checkpoints are equal", "`plane=`", "name three different ones")
    along = inner(to_third, to_second) / length
    rest = [b - a * (along / length) for a, b in zip(to_second, to_third, strict=True)]
    width = math.sqrt(inner(rest, rest))
    if width < _COLLINEAR * math.sqrt(inner(to_third, to_third)) or width == 0:
        raise UsageError("the three checkpoints lie on one line", "`plane=`", "name another, or use `landscape path`")
    change_rest = {k: change_third[k] - change_second[k] * (along / length) for k in own}
    return [
        Direction(
            kind,
            [(t / size).to(problem.dtype).detach() for t in tensors],
            axis=i,
            statistics={k: (c / size).to(own[k].dtype) for k, c in change.items()},
        ).require_finite()
        for i, (kind, tensors, size, change) in enumerate(
            (
                ("from the first to the second", to_second, length, change_second),
                ("to the third", rest, width, change_rest),
            )
        )
    ]


@rows_shared_out
def plane(
    problem: Problem,
    spec: SurfaceSpec,
    runs: Sequence[Sequence[Snapshot]],
    *,
    seed: int = 0,
    test: Problem | None = None,
    training: Problem | None = None,
    store: Path | None = None,
) -> Result:
    """Evaluate a plane through the problem's weights and place checkpoints on it.

    Args:
        problem: Its weights are the origin.
        spec: ``plane``: through the problem and the first two of all snapshots; else the directions that it
            names, ``pca:K`` over all snapshots.
        runs: Snapshots of each run, in order of training.
        seed: Of random directions.
        test: `problem.on` the examples of the test split, for metrics of it.
        training: For ``recalibrate``, the default between checkpoints (None: the problem's own examples).
        store: Folder in which finished rows wait.

    Returns:
        A result of kind ``plane``: metrics over ``(y, x)``; over ``checkpoint`` its coordinates
        ``checkpoint_x``, ``checkpoint_y``, distances ``off_plane`` and ``from_origin``, the measured
        ``checkpoint_loss`` and the ``plane_loss`` below it.
    """
    before = state_of(problem)
    plain = problem.require_finite()
    snapshots = [s for run in runs for s in run]
    axes = plane_axes(problem, *snapshots[:2]) if spec.plane else directions_of(problem, spec, seed, runs)
    policy = statistics_policy(problem, spec.bn, between=True)
    if policy == "interpolate" and any(d.statistics is None for d in axes):
        what = "BatchNorm statistics can be interpolated on a `plane=` only"
        raise UsageError(what, "`bn='interpolate'`", "use recalibrate")
    placed = []
    for i, snapshot in enumerate(snapshots):
        placed.append(project(problem, snapshot, axes))
        report("projections", i + 1, len(snapshots))
    origin = [([0.0, 0.0], 0.0, 0.0)]
    size = 2 * spec.points - 1 if spec.adaptive_grid else spec.points
    x, y = (covering_values(size, [at[k] for at, _, _ in (*placed, *origin)]) for k in (0, 1))
    training, notes = calibrating(problem, policy, training)
    with evaluating(problem, policy, test, training) as walker:
        centre = walker.evaluation(walker.at([])).loss
        measured = [_measure(walker, s, at, axes) for s, (at, _, _) in zip(snapshots, placed, strict=True)]
        rows = RowCache(
            store, cache_key(walker, axes, [spec.to_dict(), seed, x.tolist(), y.tolist()]), together=problem.in_pieces
        )
        passes = rows.until_interrupted(lambda: grid_passes(walker, spec, x, y, axes, rows))
        checks = statistics_checks(walker)
    variables, coordinates, record = picture(problem, spec, seed, axes, passes, plain=plain, centre=centre, test=test)
    variables |= {
        "checkpoint_x": ("checkpoint", np.array([at[0] for at, _, _ in placed])),
        "checkpoint_y": ("checkpoint", np.array([at[1] for at, _, _ in placed])),
        "off_plane": ("checkpoint", np.array([off for _, off, _ in placed])),
        "from_origin": ("checkpoint", np.array([far for _, _, far in placed])),
        "checkpoint_loss": ("checkpoint", np.array([m for m, _ in measured])),
        "plane_loss": ("checkpoint", np.array([p for _, p in measured])),
    }
    record["notes"] += notes
    record |= {
        **checks,
        "plane": "through three checkpoints" if spec.plane else "of trajectories",
        "passes": walker.choice._asdict(),
        "restored": state_of(problem) == before,
        "checkpoints": [dict(s.facts) for s in snapshots],
        "same_start": _same_start(runs),
        "reference": "the weights of the target; not centred",
    }
    import xarray as xr

    numbers = [r for r, run in enumerate(runs) for _ in run]
    data = xr.Dataset(variables, {**passes.values, **coordinates, "run": ("checkpoint", numbers)})
    return Result("plane", data, record, vectors=named_tensors(problem, axes))


def _measure(
    walker: Evaluator, snapshot: Snapshot, at: Sequence[float], axes: Sequence[Direction]
) -> tuple[float, float]:
    """The loss of a checkpoint at its own weights, and that of the plane at its projection, under one policy."""
    weights, statistics = snapshot.load()
    own = walker.evaluation(walker.at_weights(weights, statistics)).loss
    walker.reset_statistics()
    below = walker.evaluation(walker.at(list(zip(at, axes, strict=True)))).loss
    return own, below


def _same_start(runs: Sequence[Sequence[Snapshot]]) -> bool | None:
    """Whether all runs began at equal weights; None for fewer than two runs."""
    starts = {run[0].facts.get("weights_hash") for run in runs if run}
    return len(starts) == 1 if len(runs) > 1 else None
