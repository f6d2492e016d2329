"""What the standard set has still to compute for some targets, and about how long that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import LandscapeError
from ..base.files import jsonable
from ..results.result import Result
from ..results.staleness import since
from ..results.target import Target
from ..specs import ProblemSpec, Spec, SurfaceSpec
from .analyze import standard_specs
from .opening import open_problem

# What an analysis takes, in evaluations of the loss of all examples: a gradient is about three of them, a product
# six; sharpness steps once for each of five sizes of block. Surfaces evaluate every point.
_EVALUATIONS = {"hessian": 220.0, "sharpness": 150.0, "domains": 20.0}
_SECONDS_TO_OPEN = 0.2


@dataclass(frozen=True)
class Forecast:
    """What is left to do.

    Attributes:
        targets: How many there are.
        analyses: Of all of them.
        missing: Those of the analyses that are not stored.
        seconds: About how long the missing ones take, if all targets are like the first one that lacks something.
    """

    targets: int
    analyses: int
    missing: int
    seconds: float


def forecast(
    targets: Sequence[Target],
    problem_spec: ProblemSpec,
    *,
    out: Path | None = None,
    force: bool = False,
    trust: bool = False,
) -> Forecast:
    """Look at what is stored, without opening it again, and time one evaluation where something is missing.

    Args:
        targets: What will be analysed.
        problem_spec: Which examples, parameters, precision.
        out: Folder of the results (default: each target's).
        force: Stored results do not count.
        trust: Import plug-ins that only a run names.

    Raises:
        UsageError, DataError, NumericalError: As `open_problem`, of the first target that lacks something.
    """
    specs = standard_specs()
    missing = []
    for target in targets:
        stored = [] if force else _stored(target, problem_spec, out)
        missing += [(target, kind, spec) for kind, spec in specs if (kind, jsonable(spec.in_key())) not in stored]
    if not missing:
        return Forecast(len(targets), len(specs) * len(targets), 0, 0.0)
    problem = open_problem(missing[0][0], problem_spec, trust=trust)
    problem.loss()  # the first one is slower
    began = time.perf_counter()
    problem.loss()
    once = time.perf_counter() - began
    seconds = sum(_SECONDS_TO_OPEN + once * _evaluations(kind, spec) for _, kind, spec in missing)
    return Forecast(len(targets), len(specs) * len(targets), len(missing), seconds)


def _evaluations(kind: str, spec: Spec) -> float:
    if isinstance(spec, SurfaceSpec):
        return float(spec.points**spec.dim * spec.repeats)
    return _EVALUATIONS[kind]


def _stored(target: Target, problem_spec: ProblemSpec, out: Path | None) -> list[tuple[str, object]]:
    """Kind and options of what is stored of a target, as it is now; what cannot be read is computed anew."""
    found: list[tuple[str, object]] = []
    for path in sorted((out or target.results).glob("*.nc")):
        try:
            result = Result.load(path)
        except LandscapeError:
            continue
        record = result.record
        same = record.get("problem_spec") == jsonable(problem_spec.to_dict())
        if same and record.get("target") == str(target.checkpoint) and not since(result).stale:
            found.append((result.kind, (record.get("identity") or {}).get("options")))
    return found
