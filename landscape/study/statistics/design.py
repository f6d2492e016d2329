"""The design of a study: what was crossed with what, and so what may be exchanged and what must be drawn together.

In a grid of learning rates, batch sizes and seeds a hundred models have few independent choices. If the learning rate
moves the gap by itself and the batch size moves a measure by itself, ranks of the hundred agree or disagree by the
chance of a handful of levels. So the null of "no relation" exchanges *levels*: all models of one learning rate get
the gaps of another, at the same batch size and seed (invariance of separately exchangeable arrays). And the
bootstrap draws levels of each factor, independently of those of the others (Owen 2007, "The pigeonhole bootstrap",
Annals of Applied Statistics 1). Where configurations were not crossed, as in a random search, they are the levels of
one factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import Floats
from ..factors import Factors, nested, varying

Ints = NDArray[np.int64]

_FULL = 0.75  # of the cells of a crossed design that must be there for it to be one


@dataclass(frozen=True)
class Design:
    """Models as cells of a crossed table.

    Attributes:
        levels: By factor, which level each model has, ``(n,)``.
    """

    levels: Mapping[str, Ints]

    @property
    def exchanges(self) -> int:
        """In how many ways the levels can be exchanged."""
        return math.prod(math.factorial(int(own.max()) + 1) for own in self.levels.values())

    def permutations(self, draws: int, seed: int) -> Ints:
        """Which model's gap each model gets when the levels of every factor are exchanged at random.

        Returns:
            Shape ``(draws, n)``; -1 where there is no such model.
        """
        generator = np.random.default_rng([seed, 0x9E4])
        shape = [int(own.max()) + 1 for own in self.levels.values()]
        n = len(next(iter(self.levels.values())))
        there = np.full(shape, -1)
        there[tuple(self.levels.values())] = np.arange(n)
        found = np.empty((draws, n), dtype=np.int64)
        for row in found:
            moved = [generator.permutation(size)[own] for size, own in zip(shape, self.levels.values(), strict=True)]
            row[:] = there[tuple(moved)]
        return found

    def resamples(self, draws: int, seed: int) -> tuple[Floats, Floats]:
        """How often each model is drawn when the levels of every factor are, ``(draws, n)``; and without each level.

        Returns:
            The counts, and for the jackknife a row per level of each factor, 0 for its models and 1 for the others.
        """
        generator = np.random.default_rng([seed, 0xB007])
        n = len(next(iter(self.levels.values())))
        counts, left_out = np.ones((draws, n)), []
        for own in self.levels.values():
            size = int(own.max()) + 1
            drawn = generator.multinomial(size, np.full(size, 1 / size), size=draws)
            counts *= drawn[:, own]
            left_out += [(own != level).astype(float) for level in range(size)]
        return counts, np.array(left_out)


def design_of(settings: Factors, seeds: Sequence[Any]) -> Design:
    """The crossed factors of a study.

    Axes that exist only under some values of another (rho under sam) are one factor with it. If the factors do not
    make a table of which at least three quarters are there, the configurations are one factor. Seeds that several
    configurations share are a factor of their own.

    Args:
        settings: The axes, a value per model each.
        seeds: Of each model.
    """
    axes = varying(settings)
    n = len(seeds)
    groups = _together(axes)
    tables = {", ".join(group): list(zip(*(axes[a] for a in group), strict=True)) for group in groups}
    whole = list(zip(*axes.values(), strict=True)) if axes else [()] * n
    cells = math.prod(len(set(values)) for values in tables.values())
    if not axes or len(set(whole)) < _FULL * cells:
        tables = {"configuration": whole}
    if len(set(seeds)) > 1 and n >= _FULL * len(set(whole)) * len(set(seeds)):
        tables["seed"] = list(seeds)
    levels = {name: _numbers(values) for name, values in tables.items()}
    return Design({k: own for k, own in levels.items() if int(own.max()) > 0} or levels)


def _together(axes: Mapping[str, list[Any]]) -> list[list[str]]:
    """The axes, those that are nested in each other in one group."""
    inner = nested(axes)
    groups: list[list[str]] = []
    for name in axes:
        mine = [g for g in groups if any(name in inner[o] or o in inner[name] for o in g)]
        groups = [g for g in groups if g not in mine] + [[*(a for g in mine for a in g), name]]
    return groups


def _numbers(values: Sequence[object]) -> Ints:
    known = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return np.array([known[v] for v in values], dtype=np.int64)
