"""``surface``: the loss along one or two stored directions, on a grid, with its self-checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import NumericalError, UsageError
from ..problem.checks.derivatives import derivatives
from ..problem.problem import Problem
from ..problem.require import require_problem, rows_shared_out
from ..results.result import Result
from ..runtime.caller_context import computing
from ..specs import SurfaceSpec
from .checks import statistics_checks
from .directions.direction import Direction, inner, named_tensors
from .directions.parse import direction_of, directions_of
from .evaluate.assemble import PlanePasses, picture
from .evaluate.auto_range import Reach, chance_loss, find_reach
from .evaluate.batchnorm import calibrating
from .evaluate.evaluator import Evaluator, Move, evaluating, state_of, statistics_policy
from .evaluate.grid import axis_values, grid_passes, settle
from .evaluate.row_cache import RowCache, cache_key


@computing()
@rows_shared_out
def surface(
    problem: Problem,
    spec: SurfaceSpec | None = None,
    *,
    seed: int = 0,
    per_domain: bool = False,
    directions: Sequence[Direction] | None = None,
    test: Problem | None = None,
    training: Problem | None = None,
    reaches: Sequence[Reach] | None = None,
    store: Path | None = None,
    **options: object,
) -> Result:
    """Evaluate loss and accuracy at w + x·d1 (+ y·d2).

    Every point is computed from the saved weights, never by walking; the bare forward passes are all but all of
    its cost. Losses per domain come from the same forward pass. NaN and infinities stay what they are. Several
    processes share the rows and not the sums, so that the bits are those of one process.

    Args:
        problem: Network, loss and examples.
        spec: Grid and directions; or give its fields as keywords (``points=21, direction=("filter",)``).
        seed: Seed of the directions; the same seed gives the same directions for every network of this shape.
        per_domain: Not needed here: losses per domain are always stored.
        directions: Directions already made, one per axis, instead of those that ``spec`` names.
        test: `problem.with_examples` of the test split, for metrics of it.
        training: `landscape.surfaces.evaluate.batchnorm.calibration_problem`, for ``bn="recalibrate"`` (None: the
            problem's own examples).
        reaches: How far each axis goes, where that was found before (``range="auto"``).
        store: Folder in which finished rows wait; a call with the same arguments goes on there. None: memory.
        **options: Fields of `SurfaceSpec`.

    Returns:
        The metrics asked for over ``(y, x)``, or over ``x``, or over ``(repeat, x)`` for repeated 1-D slices;
        an adaptive grid also says which cells were ``evaluated``.

    Raises:
        NumericalError: If the loss at the centre is not finite, or two evaluations of the centre differ.
        UsageError: If a direction or policy needs what is not there, or ``test`` or ``training`` is a problem of
            another network, even of an equal one: it would not move.
        Interrupted: By Ctrl-C, with ``store``; what is finished stays there.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> found = landscape.surface(problem, dim=1, points=5)
        >>> found.data["loss"].shape
        (5,)
    """
    require_problem(problem, "surface")
    spec = spec or SurfaceSpec.from_options(**options)
    before = state_of(problem)
    plain = problem.require_finite()
    axes = list(directions) if directions is not None else directions_of(problem, spec, seed)
    policy = statistics_policy(problem, spec.bn, between=False)
    if policy == "interpolate" and any(d.statistics is None for d in axes):
        what = "BatchNorm statistics can be interpolated between checkpoints only"
        raise UsageError(what, "`bn='interpolate'`", "use keep or recalibrate, or checkpoint: directions")
    training, notes = calibrating(problem, policy, training)
    with evaluating(problem, policy, test, training) as walker:
        centre = _centre(walker, plain.loss)
        if spec.range == "auto" and reaches is None:
            reaches = [axis_reach(walker, d) for d in axes]
        lengths = [r.value for r in reaches] if reaches else [float(spec.range)] * spec.dim
        rows = RowCache(store, cache_key(walker, axes, [spec.to_dict(), seed, lengths]), together=problem.in_pieces)
        passes = rows.until_interrupted(lambda: _evaluate(walker, spec, seed, axes, lengths, rows))
        checks = statistics_checks(walker)
    variables, coordinates, record = picture(problem, spec, seed, axes, passes, plain=plain, centre=centre, test=test)
    compared = _derivatives(problem, axes)
    if compared and compared["note"]:
        record["notes"].append(compared["note"])
    record["notes"] += notes
    if spec.repeats > 1:
        record["axes"] = [_drawn(problem, spec, seed, r).record() for r in range(spec.repeats)]
    for i, reach in enumerate(reaches or [], 1):
        if reach.capped:
            record["notes"].append(f"along axis {i} the loss never rose to {reach.threshold:.4g}")
    record |= {
        **checks,
        "derivatives": compared,
        "passes": walker.choice._asdict(),
        "restored": state_of(problem) == before,
        "range": lengths,
        "range_search": [r.record() for r in reaches] if reaches else None,
    }
    import xarray as xr

    data = xr.Dataset(variables, {**passes.values, **coordinates})
    return Result("surface", data, record, vectors=named_tensors(problem, axes))


def axis_reach(walker: Evaluator, direction: Direction) -> Reach:
    """How far one direction goes until the loss is at chance."""
    classes = walker.problem.examples.classes()
    centre = walker.evaluation(walker.at([])).loss
    count = int(classes.max()) + 1 if classes is not None and len(classes) else None
    size = math.sqrt(inner(walker.centre, walker.centre)) or 1.0
    start = 0.02 * size / (direction.norm or 1.0)
    return find_reach(
        lambda x: walker.evaluation(walker.at([(x, direction)])).loss, chance_loss(centre, count), start
    )


def _derivatives(problem: Problem, axes: Sequence[Direction]) -> dict[str, object] | None:
    """Whether the derivatives that the directions are made of are the loss's; None where they are made of none."""
    kinds = {d.kind.partition(":")[0] for d in axes}
    if "eigvec" in kinds:
        return derivatives(problem, product=True).record("hessian")
    return derivatives(problem).record() if kinds & {"grad", "sam", "asam", "domain-grad"} else None


def _centre(walker: Evaluator, plain: float) -> float:
    """The loss at the centre, evaluated twice.

    Raises:
        NumericalError: If it differs from itself or, where statistics are kept, from the plain evaluation.
    """
    # The first one moves the random state on, so that a forward that draws from it gives itself away.
    first, second = (walker.evaluation(walker.at([])).loss for _ in range(2))
    other = first if walker.policy == "recalibrate" else plain
    if not abs(second - other) <= 1e-6 * max(1.0, abs(other)):
        raise NumericalError(
            f"two evaluations of the centre differ ({other:.6g} and {second:.6g})",
            type(walker.problem.network).__name__,
            "its forward is random even in eval mode",
        )
    return second


def _evaluate(
    walker: Evaluator,
    spec: SurfaceSpec,
    seed: int,
    axes: Sequence[Direction],
    lengths: Sequence[float],
    rows: RowCache,
) -> PlanePasses:
    if spec.dim == 1:
        x = axis_values(spec.points, lengths[0])

        def places(direction: Direction) -> list[list[Move]]:
            return [[(float(step), direction)] for step in x]

        def line(direction: Direction) -> Any:
            return walker.over(places(direction))

        settle(walker, rows, places(axes[0]), len(x), len(x) * spec.repeats)

        if spec.repeats == 1:
            return PlanePasses(("x",), {"x": x}, rows.compute("slice", ["slice"], lambda _: [line(axes[0])])[0])
        names = [f"slice{r:04d}" for r in range(spec.repeats)]
        lines = rows.compute("slices", names, lambda few: [line(_drawn(walker.problem, spec, seed, r)) for r in few])
        return PlanePasses(("repeat", "x"), {"x": x}, np.stack(lines))
    size = 2 * spec.points - 1 if spec.adaptive_grid else spec.points
    x, y = (axis_values(size, length) for length in lengths)
    return grid_passes(walker, spec, x, y, axes, rows)


def _drawn(problem: Problem, spec: SurfaceSpec, seed: int, number: int) -> Direction:
    return direction_of(problem, spec.axes[0], seed, number, spec.one_dimensional).require_finite()
