"""``path``: the loss between two checkpoints, along a line or a trained curve, and its barrier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UsageError
from ..problem.problem import Problem
from ..problem.require import require_problem, rows_shared_out
from ..results.result import Result
from ..runtime.caller_context import computing
from ..specs import PathSpec
from .align.alignment import align
from .checks import statistics_checks
from .directions.curves import point_on, train_bend
from .directions.direction import inner
from .directions.snapshots import Snapshot
from .evaluate.batchnorm import calibrating
from .evaluate.evaluator import Evaluator, evaluating, state_of, statistics_policy
from .evaluate.metrics import point_metrics
from .evaluate.row_cache import RowCache, cache_key


@computing()
@rows_shared_out
def path(
    problem: Problem,
    other: Snapshot | Path | str,
    spec: PathSpec | None = None,
    *,
    seed: int = 0,
    training: Problem | None = None,
    store: Path | None = None,
    **options: object,
) -> Result:
    """Evaluate the way from the problem's weights (A, t = 0) to another checkpoint (B, t = 1).

    Both ends are evaluated bit for bit. The barrier is the largest height above the straight line between the
    losses of the ends, max_t L(φ(t)) − ((1−t) L(A) + t L(B)), under the same treatment of BatchNorm everywhere
    (arXiv 1912.05671); the height above the higher end is stored beside it.

    Args:
        problem: Network at A, loss and examples.
        other: B, or its file.
        spec: Form of the path; or give its fields as keywords (``kind="bezier"``).
        seed: Of the training of a curve.
        training: `landscape.surfaces.evaluate.batchnorm.calibration_problem`, for ``recalibrate`` (None: the
            problem's own examples) and for curves.
        store: Folder in which finished points wait.
        **options: Fields of `PathSpec`.

    Returns:
        Metrics over ``t``, and the record of the command.

    Raises:
        UsageError: If A and B are equal, or training examples are missing.
        NumericalError: If the loss at A is not finite, or a curve diverges.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> import tempfile, pathlib
        >>> other = pathlib.Path(tempfile.mkdtemp()) / "other.pt"
        >>> torch.save(torch.nn.Linear(4, 3).state_dict(), other)
        >>> found = landscape.path(problem, other, points=5)
        >>> found["barrier"] >= 0
        True
    """
    require_problem(problem, "path")
    spec = spec or PathSpec.from_options(**options)
    before = state_of(problem)
    plain = problem.require_finite()
    other = other if isinstance(other, Snapshot) else Snapshot.read(other, problem)
    a = [t.clone() for t in problem.space.split(problem.weights)]
    weights, statistics = other.load()
    matched: dict[str, Any] | None = None
    if spec.align and problem.in_pieces:
        fix = "drop `align=`, or gather the model in one process"
        raise UsageError("channels of whole layers are matched", "`align=` of a sharded model", fix)
    if spec.align:
        weights, statistics, matched = align(problem, weights, statistics)
    b = [w.to(problem.device, problem.dtype) for w in weights]
    distance = math.sqrt(inner(gap := torch._foreach_sub(b, a), gap))
    if distance == 0:
        raise UsageError("the two checkpoints are equal", str(other.facts.get("target", "B")), "name two")
    policy = statistics_policy(problem, spec.bn, between=True)
    if spec.kind != "line" and training is None:
        fix = "pass training=calibration_problem(problem, examples) of landscape.surfaces.evaluate.batchnorm"
        raise UsageError("a curve needs training examples", f"kind={spec.kind!r}", fix)
    bend, history = train_bend(training, a, b, spec, seed) if spec.kind != "line" and training else ([], [])
    training, notes = calibrating(problem, policy, training)
    t = path_values(spec)
    with evaluating(problem, policy, None, training) as walker:
        plain_b = _own(walker, b, statistics)
        rows = RowCache(
            store,
            cache_key(walker, [], [spec.to_dict(), seed, dict(other.facts), spec.align]),
            together=problem.in_pieces,
        )

        def point(i: int) -> Any:
            here = point_on(spec.kind, float(t[i]), a, b, bend)
            between = _between(walker.statistics, statistics, float(t[i])) if policy == "interpolate" else None
            return walker.at_weights(here, between).cpu().numpy()

        names = [f"t{i:04d}" for i in range(len(t))]
        sums = np.stack(
            rows.until_interrupted(lambda: rows.compute("path", names, lambda few: [point(i) for i in few]))
        )
        checks = statistics_checks(walker)
    variables, coordinates = point_metrics(problem, sums, ("t",), _METRICS)
    loss = variables["loss"][1]
    ends = loss[t == 0][0], loss[t == 1][0]
    inside = (t >= 0) & (t <= 1)
    above = loss[inside] - ((1 - t[inside]) * ends[0] + t[inside] * ends[1])
    if policy == "keep" and checks["batchnorm_layers"]:
        notes.append("BatchNorm statistics of A are kept along the whole path: the loss at B is not that of B")
    record = {
        "target": None,
        "a": None,
        "b": other.facts.get("target"),
        **problem.describe(),
        "kind": spec.kind,
        "barrier": float(np.max(above)),
        "barrier_at": float(t[inside][int(np.argmax(above))]) if np.isfinite(above).any() else None,
        "barrier_above_higher_end": float(np.max(loss[inside]) - max(ends)),
        "barrier_definition": "max over t in [0, 1] of L(t) - ((1-t) L(A) + t L(B))",
        "t": t.tolist(),
        "loss": loss.tolist(),
        "accuracy": variables["accuracy"][1].tolist() if "accuracy" in variables else None,
        "distance": distance,
        "ends": {
            "a": {"plain": plain.loss, "on_path": float(ends[0])},
            "b": {"plain": plain_b, "on_path": float(ends[1])},
        },
        "plain_loss": plain.loss,
        "plain_accuracy": plain.accuracy,
        "aligned": matched,
        "curve": {"first_loss": _mean(history[:20]), "last_loss": _mean(history[-20:])} if history else None,
        "nan_cells": int(np.isnan(loss).sum()),
        "infinite_cells": int(np.isinf(loss).sum()),
        **checks,
        "restored": state_of(problem) == before,
        "b_weights_hash": other.facts.get("weights_hash"),
        "b_run": other.facts.get("run"),
        "notes": notes,
        "seed": seed,
        "spec": spec.to_dict(),
    }
    import xarray as xr

    vectors = {f"bend.{n}": c for n, c in zip(problem.space.names, bend, strict=True)} if bend else None
    return Result("path", xr.Dataset(variables, {"t": t, **coordinates}), record, vectors=vectors)


_METRICS = ("loss", "accuracy", "domain-loss", "domain-accuracy", "domain-mean", "domain-variance", "worst-domain")


def path_values(spec: PathSpec) -> Any:
    """Values of t: ``points`` from exactly 0 to exactly 1, and steps of the same length beyond both ends."""
    last = spec.points - 1
    extra = round(spec.beyond * last)
    return np.arange(-extra, last + extra + 1) / last


def _own(walker: Evaluator, weights: Sequence[Tensor], statistics: Mapping[str, Tensor]) -> float:
    """The loss of a checkpoint as it is, with its own statistics."""
    policy, walker.policy = walker.policy, "keep"
    try:
        return walker.evaluation(walker.at_weights(weights, statistics)).loss
    finally:
        walker.policy = policy
        walker.reset_statistics()


def _between(first: Mapping[str, Tensor], second: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
    return {k: torch.lerp(v, second[k].to(v), t) for k, v in first.items()}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
