"""From the words on the command line to directions of one network."""

from __future__ import annotations

from collections.abc import Sequence

from ...base.errors import UsageError
from ...base.plugins import parameters
from ...problem.problem import Problem
from ...registry import DIRECTIONS
from ...runtime.distributed import sharding
from ...specs import HessianSpec, SurfaceSpec
from ...specs.surface import parse_direction
from .direction import Direction, centre_of
from .snapshots import Snapshot
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
        (made.get(i) or direction_of(problem, word, seed, i, spec.one_dimensional)).require_finite()
        for i, word in enumerate(spec.axes)
    ]


def direction_of(problem: Problem, word: str, seed: int, axis: int, one_dimensional: str = "zero") -> Direction:
    """One direction, by the function that the registry names.

    It is given the problem, what stands behind the colon where something does, and of ``kind``, ``seed``, ``axis``
    (from 0), ``number`` (the axis from 1) and ``one_dimensional`` those that it has a parameter for.

    Args:
        problem: The network that is cut.
        word: Names the direction, such as ``sam:0.05``.
        seed: Of what is drawn.
        axis: Axes of one seed are drawn independently.
        one_dimensional: What random directions are in parameters of one dimension.

    Raises:
        UsageError: If the function makes no `Direction` for this problem.
    """
    kind, argument = parse_direction(word)
    make = DIRECTIONS.load(DIRECTIONS.family(word) or kind)
    offered = {"kind": kind, "seed": seed, "axis": axis, "number": axis + 1, "one_dimensional": one_dimensional}
    taken = parameters(make)[0]
    found = make(problem, *([] if argument is None else [argument]), **{k: offered[k] for k in offered if k in taken})
    shapes = [tuple(part.shape) for part in centre_of(problem)]
    if not isinstance(found, Direction) or [tuple(part.shape) for part in found.tensors] != shapes:
        raise UsageError("it is no direction of this network", word, "return a Direction, one tensor per parameter")
    return found


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
