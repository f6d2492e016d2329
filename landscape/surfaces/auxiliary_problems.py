"""The examples that a surface or a path needs besides those it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.examples import Examples
from ..problem.fingerprint import fingerprint
from ..problem.problem import Problem
from ..registry import DIRECTIONS
from ..specs import PathSpec, SurfaceSpec
from ..specs.surface import parse_direction
from ..weights.checkpoint import read_weights
from ..weights.weights import tensors_hash
from .evaluate.auto_range import Reach
from .evaluate.batchnorm import calibration_problem
from .evaluate.evaluator import statistics_policy

_CALIBRATION = 2000


def auxiliary_problems(
    problem: Problem, spec: SurfaceSpec | PathSpec, split: Callable[[str], Examples], *, between: bool = False
) -> dict[str, Problem | None]:
    """The test split where metrics ask for it, and training examples where statistics or a curve need them.

    Args:
        problem: What is measured.
        spec: Says what is needed.
        split: From the name of a split to its examples.
        between: Whether it goes from checkpoint to checkpoint (`statistics_policy`).

    Returns:
        ``test`` and ``training``, problems that share the network of ``problem``, or None. At most 2,000 training
        examples are taken, or as many as the problem has, in a seeded and stratified choice.
    """
    test = training = None
    if isinstance(spec, SurfaceSpec) and spec.wants_test:
        test = problem.with_examples(split("test"), "split 'test'")
    curve = isinstance(spec, PathSpec) and spec.kind != "line"
    if curve or statistics_policy(problem, spec.bn, between) == "recalibrate":
        found, most = split("train"), max(_CALIBRATION, problem.n_examples)
        training = calibration_problem(problem, found if len(found) <= most else found.subset(most, 0))
    return {"test": test, "training": training}


def identity_parts(
    spec: SurfaceSpec | PathSpec, beside: Mapping[str, Problem | None], reaches: Sequence[Reach] | None = None
) -> list[Any]:
    """What decides a result beyond problem and spec: other examples, shared ranges, what directions are made of."""
    others: list[Any] = [p.data_hash if (p := beside[k]) else None for k in ("test", "training")]
    for word in spec.axes if isinstance(spec, SurfaceSpec) else ():
        kind, argument = parse_direction(word)
        if kind in ("checkpoint", "file"):
            others.append(tensors_hash(read_weights(Path(argument)).tensors))
        name = DIRECTIONS.family(word) or kind
        if not DIRECTIONS.is_own(name):
            others.append(fingerprint(DIRECTIONS.load(name)))
    if reaches:
        others.append([r.value for r in reaches])
    return others
