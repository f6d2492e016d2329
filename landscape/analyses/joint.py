"""Analyses of several checkpoints at once: surfaces on one range, planes through them, and paths between two."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from ..base.errors import UsageError
from ..problem.problem import Problem
from ..results.result import Result
from ..results.run import step_of
from ..results.target import Target
from ..runtime.caller_context import computing
from ..runtime.distributed import no_sharding
from ..specs import PathSpec, ProblemSpec, SurfaceSpec
from ..specs.surface import parse_direction
from ..surfaces.auxiliary_problems import auxiliary_problems, identity_parts
from ..surfaces.directions.parse import directions_of
from ..surfaces.directions.snapshots import Snapshot
from ..surfaces.directions.trajectory import evenly
from ..surfaces.evaluate.auto_range import Reach
from ..surfaces.evaluate.evaluator import evaluating, statistics_policy
from ..surfaces.path import path as path_between
from ..surfaces.planes import plane
from ..surfaces.surface import axis_reach
from ..weights.checkpoint import read_weights
from .analyze import analyze
from .computation import Computation, results_folder
from .opening import open_problem, splits_of
from .prepare_surface import with_files

log = logging.getLogger(__name__)


@computing()
def surfaces(
    targets: Sequence[Target | str],
    problem_spec: ProblemSpec | None = None,
    spec: SurfaceSpec | None = None,
    *,
    out: Path | str | None = None,
    force: bool = False,
    trust: bool = False,
) -> list[Result]:
    """Surfaces of several targets that can be compared, or the one plane that goes through them.

    Args:
        targets: With ``plane``, three checkpoints, and others to be projected; with ``pca:K`` directions, runs whose
            checkpoints are projected (``RUN@step=N``: those up to N; a bare file: itself).
        problem_spec: Which examples, parameters, precision.
        spec: Where to look. ``range="auto"`` gives all targets the largest range that any of them needs.
        out: Folder of the results.
        force: Compute anew.
        trust: Import plug-ins that only a run names.

    Raises:
        UsageError: If there are too few targets.
    """
    found = [Target.find(t) if isinstance(t, str) else t for t in targets]
    problem_spec, spec = problem_spec or ProblemSpec(), spec or SurfaceSpec()
    pca = any(parse_direction(word)[0] == "pca" for word in spec.axes)
    if pca and spec.dim != 2:
        raise UsageError("principal components are drawn as a plane", "`dim=1`", "use `dim=2`")
    if spec.plane and len(found) < 3:
        raise UsageError(f"{len(found)} target(s) do not span a plane", "`plane=`", "name three checkpoints")
    if spec.plane or pca:
        return [_plane(found, problem_spec, spec, out=out, force=force, trust=trust)]
    reaches: list[Reach] | None = None
    if spec.range == "auto" and len(found) > 1:
        reaches = _shared_reaches(found, problem_spec, with_files(spec), trust=trust)
    return [
        analyze("surface", t, problem_spec, spec, out=out, force=force, trust=trust, reaches=reaches) for t in found
    ]


@computing()
def path(
    first: Target | str,
    second: Target | str,
    problem_spec: ProblemSpec | None = None,
    spec: PathSpec | None = None,
    *,
    out: Path | str | None = None,
    force: bool = False,
    trust: bool = False,
) -> Result:
    """The loss between two targets, on the data of the first.

    Args:
        first: A.
        second: B, a checkpoint of the same network.
        problem_spec: Which examples, precision.
        spec: Form of the path.
        out: Folder of the result.
        force: Compute anew.
        trust: Import plug-ins that only a run names.
    """
    first, second = [Target.find(t) if isinstance(t, str) else t for t in (first, second)]
    problem_spec, spec = problem_spec or ProblemSpec(), spec or PathSpec()
    first.facts()
    folder = results_folder([first, second], out)
    read_weights(second.checkpoint, problem_spec.key)  # a wrong file is told before data are read
    problem = open_problem(first, problem_spec, trust=trust)
    other = _snapshot(second, second.checkpoint, problem, problem_spec.key)
    beside = auxiliary_problems(problem, spec, splits_of(first, problem_spec, problem, trust=trust), between=True)

    def compute(store: Path) -> Result:
        return path_between(problem, other, spec, seed=problem_spec.seed, training=beside["training"], store=store)

    others = [other.facts["weights_hash"], *identity_parts(spec, beside)]
    ends = [str(t.checkpoint) for t in (first, second)]
    named = {"targets": ends, "a": ends[0], "b": ends[1]}
    made = Computation(
        "path", [first, second], problem, problem_spec, spec, compute, others, placed=lambda _record, _run: named
    )
    return made.result(folder, force=force)


def _plane(
    targets: Sequence[Target],
    problem_spec: ProblemSpec,
    spec: SurfaceSpec,
    *,
    out: Path | str | None,
    force: bool,
    trust: bool,
) -> Result:
    for target in targets:
        target.facts()
    folder = results_folder(targets, out)
    for target in targets[1:]:
        read_weights(target.checkpoint, problem_spec.key)  # a wrong file is told before data are read
    problem = open_problem(targets[0], problem_spec, trust=trust)
    if spec.plane:
        runs = [[_snapshot(t, t.checkpoint, problem, problem_spec.key)] for t in targets[1:]]
    else:
        files = [_files(t) for t in targets]
        count = min(map(len, files))
        runs = [
            [_snapshot(t, f, problem, problem_spec.key) for f in evenly(found, count)]
            for t, found in zip(targets, files, strict=True)
        ]
        if len({len(f) for f in files}) > 1:
            log.info("every run is shown with %d checkpoints, as many as the shortest has", count)
    beside = auxiliary_problems(
        problem, spec, splits_of(targets[0], problem_spec, problem, trust=trust), between=True
    )

    def compute(store: Path) -> Result:
        return plane(problem, spec, runs, seed=problem_spec.seed, store=store, **beside)

    hashes = [[s.facts["weights_hash"] for s in run] for run in runs]
    others = [hashes, *identity_parts(spec, beside)]
    named = {"targets": [str(t.checkpoint) for t in targets]}
    made = Computation(
        "plane", targets, problem, problem_spec, spec, compute, others, placed=lambda _record, _run: named
    )
    return made.result(folder, force=force)


def _files(target: Target) -> list[Path]:
    """The checkpoints of a run up to the target's own; a file that is none of the run's steps alone."""
    if target.run is None or step_of(target.checkpoint) is None:
        return [target.checkpoint]
    return [p for p in target.run.checkpoints().values() if p.name <= target.checkpoint.name]


def _snapshot(target: Target, file: Path, problem: Problem, key: str | None) -> Snapshot:
    facts = Target(file, target.run).facts()
    label = facts["optimizer"] if facts else file.name
    said = {"run": facts, "label": label, "step": facts["step"] if facts else None}
    return Snapshot.read(file, problem, said, key=key)


@no_sharding()
def _shared_reaches(
    targets: Sequence[Target], problem_spec: ProblemSpec, spec: SurfaceSpec, *, trust: bool
) -> list[Reach]:
    """The range that lets every target reach chance, per axis: the search of the one that needs most."""
    found: list[list[Reach]] = []
    for target in targets:
        problem = open_problem(target, problem_spec, trust=trust)
        beside = auxiliary_problems(problem, spec, splits_of(target, problem_spec, problem, trust=trust))
        policy = statistics_policy(problem, spec.bn, between=False)
        axes = directions_of(problem, spec, problem_spec.seed)
        with torch.no_grad(), evaluating(problem, policy, None, beside["training"]) as walker:
            found.append([axis_reach(walker, d) for d in axes])
    return [max(axis, key=lambda r: r.value) for axis in zip(*found, strict=True)]
