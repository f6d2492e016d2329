"""From the words on the command line to directions of one network."""

from __future__ import annotations

from collections.abc import Sequence

from ...base.errors import UsageError
from ...problem.problem import Problem
from ...runtime.distributed import sharding
from ...specs import HessianSpec, SurfaceSpec
from ...specs.surface import RANDOM_DIRECTIONS, parse_direction
from .ascent import asam_direction, domain_gradient_direction, gradient_direction, sam_direction
from .direction import Direction, read_direction
from .random import draw
from .snapshots import Snapshot, difference
from .trajectory import components


def directions_of(
    problem: Problem, spec: SurfaceSpec, seed: int, snapshots: Sequence[Sequence[Snapshot]] = ()
) -> list[Direction]:
    """The directions of all axes; those that need the same computation share it.

    Args:
        problem: The network that is cut.
        spec: Names the directions.
        seed: Of random directions and of eigenvectors' start vectors.
        snapshots: Checkpoints of each run, in order, for ``pca:K``.

    Raises:
        UsageError: If a direction needs what is not there.
        NumericalError: If one is undefined (no gradient) or not finite.
    """
    made: dict[int, Direction] = {}
    parsed = [parse_direction(word) for word in spec.axes]
    for kind, make in (("eigvec", _eigenvectors), ("pca", _components)):
        ranks = [argument for k, argument in parsed if k == kind]
        if ranks:
            found = make(problem, max(ranks), seed, snapshots)
            made |= {i: found[rank - 1] for i, (k, rank) in enumerate(parsed) if k == kind}
    return [
        (made.get(i) or _one(problem, kind, argument, seed, i, spec.one_dimensional)).require_finite()
        for i, (kind, argument) in enumerate(parsed)
    ]


def _one(problem: Problem, kind: str, argument: object, seed: int, axis: int, one_dimensional: str) -> Direction:
    if kind in RANDOM_DIRECTIONS:
        return draw(problem, kind, seed, axis, one_dimensional)
    if kind == "grad":
        return gradient_direction(problem)
    if kind == "sam":
        return sam_direction(problem, float(str(argument)))
    if kind == "asam":
        return asam_direction(problem, float(str(argument)))
    if kind == "domain-grad":
        return domain_gradient_direction(problem, str(argument))
    if kind == "checkpoint":
        return difference(problem, Snapshot.read(str(argument), problem), f"checkpoint:{argument}")
    return read_direction(problem, str(argument), axis + 1)


def _eigenvectors(problem: Problem, count: int, seed: int, _: object) -> list[Direction]:
    """The eigenvectors of the ``count`` largest Hessian eigenvalues, each with its value and true residual.

    Several processes compute them together, although they share a surface's rows only: a run costs as much as a grid.
    """
    from ...curvature.hessian import hessian

    with sharding():
        found = hessian(problem, HessianSpec(top=count), seed=seed)
    return [
        Direction(
            f"eigvec:{k}",
            [found.vectors[f"v{k}.{n}"].to(problem.device, problem.dtype) for n in problem.space.names],
            facts={"eigenvalue": value, "residual": residual},
        )
        for k, (value, residual) in enumerate(zip(found["eigenvalues"], found["residuals"], strict=True), 1)
    ]


def _components(problem: Problem, count: int, _: int, snapshots: Sequence[Sequence[Snapshot]]) -> list[Direction]:
    if not snapshots:
        raise UsageError("pca needs the checkpoints of a run", "`direction='pca:1'`", "name run folders as targets")
    return components(problem, snapshots, count)
