"""Directions in weight space as stored objects: what they are, how long, how they lie to each other.

A file of directions is safetensors: tensors ``d1.NAME``, ``d2.NAME``, ... with one tensor per parameter, and in
its header the JSON record of every direction (kind, seed, norm, treatment of 1-D parameters) with the hash of
the weights that they were made for. For a complex parameter the tensor is real, ``(..., 2)``, as
``torch.view_as_real`` has it; complex tensors are read, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base.errors import DataError, NumericalError
from ...numerics.tensors import as_real
from ...problem.problem import Problem
from ...runtime.devices import wide
from ...sharding.parts import cut
from ...weights.checkpoint import read_weights

_NUMBERED = re.compile(r"d(\d+)\.(.+)")


@dataclass(frozen=True)
class Direction:
    """A direction in weight space.

    Attributes:
        kind: The word that names it, for example ``filter`` or ``sam:0.05``.
        tensors: One tensor per parameter of the problem, in the problem's dtype and on its device; real pairs
            ``(..., 2)`` for a complex one.
        seed: The seed it was drawn with; None if it was not drawn.
        axis: Its number; axes of one seed are independent draws.
        facts: Anything else that says what it is (eigenvalue, radius, file, ...); strict JSON.
        statistics: How BatchNorm statistics change per unit, by buffer name; None where they are not defined.
    """

    kind: str
    tensors: list[Tensor]
    seed: int | None = None
    axis: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] | None = None

    @property
    def norm(self) -> float:
        """Euclidean length."""
        return math.sqrt(self.dot(self))

    def dot(self, other: Direction) -> float:
        """Inner product with another direction, summed in float64."""
        return inner(self.tensors, other.tensors)

    def cosine(self, other: Direction) -> float:
        """Cosine of the angle to another direction (0 if one of them is zero)."""
        size = self.norm * other.norm
        return self.dot(other) / size if size else 0.0

    def record(self) -> dict[str, Any]:
        """What is stored beside the tensors."""
        return {"direction": self.kind, "norm": self.norm, "seed": self.seed, "axis": self.axis, **self.facts}

    def require_finite(self) -> Direction:
        """This direction; refuse one that would poison even the centre (0 · inf is NaN).

        Raises:
            NumericalError: If an entry is NaN or infinite.
        """
        if not all(bool(torch.isfinite(t).all()) for t in self.tensors):
            raise NumericalError("the direction holds NaN or infinities", self.kind, "check the weights, or `dtype=`")
        return self


def inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Inner product of two lists of tensors, summed in float64."""
    return float(
        torch.stack([(wide(a.detach()) * wide(b.detach())).sum() for a, b in zip(first, second, strict=True)]).sum()
    )


def centre_of(problem: Problem) -> list[Tensor]:
    """The weights at the problem's centre by parameter, also while its network is somewhere else."""
    return problem.space.split(problem.weights)


def named_tensors(problem: Problem, directions: Sequence[Direction]) -> dict[str, Tensor]:
    """The tensors of several directions under the names of a direction file."""
    names = problem.space.names
    return {f"d{i}.{n}": t for i, d in enumerate(directions, 1) for n, t in zip(names, d.tensors, strict=True)}


def read_direction(problem: Problem, path: Path | str, number: int) -> Direction:
    """Read direction ``number`` (from 1) of a direction file, or a file that holds one tensor per parameter.

    A file of plain parameter names, without ``d1.``, is one direction, whatever ``number`` is.

    Raises:
        UsageError: If there is no such file.
        DataError: If it is damaged, lacks that direction, or does not fit the parameters.
    """
    found = read_weights(Path(path)).tensors
    numbered = {m[2]: t for k, t in found.items() if (m := _NUMBERED.fullmatch(k)) and int(m[1]) == number}
    if any(_NUMBERED.fullmatch(k) for k in found):
        found = numbered
        if not found:
            raise DataError(
                f"it holds no direction d{number}", str(path), "name a file of as many directions as axes"
            )
    tensors = []
    for name, shape in zip(problem.space.names, problem.space.shapes, strict=True):
        if name in found:
            found[name] = as_real(found[name])
        if name not in found or found[name].shape != shape:
            has = f"shape {tuple(found[name].shape)}" if name in found else "nothing"
            what = f"for {name} {shape} it holds {has}"
            raise DataError(what, str(path), "it belongs to another model, or to other `params=`")
        tensors.append(found[name].to(problem.device, problem.dtype))
    if problem.in_pieces:
        tensors = [cut(t, like) for t, like in zip(tensors, centre_of(problem), strict=True)]
    return Direction(f"file:{Path(path).name}", tensors, axis=number - 1, facts={"file": str(path)}).require_finite()
