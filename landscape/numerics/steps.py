"""The step of a central difference, chosen by what differences of several steps say of each other.

A central difference of a vector function is wrong by truncation, A h², by noise, B / h, and by what jumps inside the
window. None of the three is known beforehand. Quotients of steps that differ by a factor of four disagree by nearly
all of the truncation of the longer one, or by nearly all of the noise of the shorter one: where neighbours disagree
least, both are small, and their disagreement is how wrong they are (the idea of Ridders 1982, Adv. Eng. Software 4,
and of Moré and Wild 2012, ACM TOMS 38, without a model of either error).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RATIO = 4.0
SAFETY = 2.0  # of the bar, over the disagreement that is measured
_REACH = 9  # steps either way: five orders of magnitude
_BEYOND = 8.0  # times the least disagreement: farther on it only grows

Quotient = Callable[[float], Tensor]
"""From a step to the central difference, ``(n,)``."""


@dataclass(frozen=True)
class Settled:
    """A quotient and how wrong it is.

    Attributes:
        value: The quotient of the step that was chosen, ``(n,)``.
        error: Bar of ‖value − derivative‖.
        step: The step.
        first: ‖quotient of the first step − value‖: what the choice of the step made better.
        noise: B of the error B / h, an upper bound where no step shorter than the chosen one was asked.
        truncation: A of the error A h², likewise for longer ones.
    """

    value: Tensor
    error: float
    step: float
    first: float
    noise: float
    truncation: float


@dataclass(frozen=True)
class Nearest:
    """The step whose quotient comes closest to a known derivative.

    Attributes:
        step: The step.
        distance: ‖its quotient − derivative‖.
        noise: As of `Settled`.
        truncation: As of `Settled`.
    """

    step: float
    distance: float
    noise: float
    truncation: float


def settle(quotient: Quotient, start: float, *, good: float = 0.0, suspicious: float = math.inf) -> Settled:
    """The quotient that agrees best with its neighbour.

    Two steps are asked, the first and one a quarter of it; more where these disagree.

    Args:
        quotient: What is asked.
        start: First step.
        good: A disagreement that needs no other steps.
        suspicious: A disagreement, relative to the quotient, that smooth functions do not show: all shorter steps
            are asked then, because jumps (kinks of a ReLU) are left out by those alone that are shorter than the way
            to the next one.

    Returns:
        The quotient. Its error is infinite where no two quotients are finite.
    """
    ladder = _Ladder(quotient, start)
    gap = ladder.gap
    best = _downhill(gap, -1, good)
    if gap(best) > max(good, suspicious * float(torch.linalg.vector_norm(ladder.value(0)))):
        best = min(range(-_REACH, best + 1), key=gap)
    # Of the pair, the one that what lies on either side speaks for; without a word of either, the shorter step.
    left, right = ladder.gaps.get(best - 1), ladder.gaps.get(best + 1)
    longer = left is not None and right is not None and left / RATIO > right / RATIO**2
    value, step = ladder.value(best + longer), ladder.step(best + longer)
    return Settled(
        value=value,
        error=SAFETY * gap(best),
        step=step,
        first=_distance(ladder.value(0), value),
        noise=min(g * ladder.step(k) for k, g in ladder.gaps.items() if k <= best),
        truncation=min(g / ladder.step(k + 1) ** 2 for k, g in ladder.gaps.items() if k >= best),
    )


def step_towards(
    quotient: Quotient, start: float, truth: Tensor, *, good: float = 0.0, suspicious: float = math.inf
) -> Nearest:
    """The step whose quotient comes closest to a derivative that is known better.

    Args:
        quotient: What is asked.
        start: First step; no other is asked where it is good.
        truth: The derivative, ``(n,)``.
        good: A distance that needs no other steps.
        suspicious: As of `settle`.

    Returns:
        The step.
    """
    known: dict[int, float] = {}

    def distance(k: int) -> float:
        if k not in known:
            known[k] = _distance(quotient(start * RATIO**k), truth)
        return known[k]

    best = _downhill(distance, 0, good)
    if distance(best) > max(good, suspicious * float(torch.linalg.vector_norm(truth))):
        best = min(range(-_REACH, best + 1), key=distance)
    steps = {k: start * RATIO**k for k in known}
    return Nearest(
        step=steps[best],
        distance=distance(best),
        noise=min(d * steps[k] for k, d in known.items() if k <= best),
        truncation=min(d / steps[k] ** 2 for k, d in known.items() if k >= best),
    )


class _Ladder:
    """Quotients of the steps start · RATIO^k; only those that may still be wanted are held."""

    def __init__(self, quotient: Quotient, start: float) -> None:
        self.quotient, self.start = quotient, start
        self.gaps: dict[int, float] = {}
        self._values: dict[int, Tensor] = {}

    def step(self, k: int) -> float:
        return self.start * RATIO**k

    def value(self, k: int) -> Tensor:
        if k not in self._values:
            self._values[k] = self.quotient(self.step(k))
        return self._values[k]

    def gap(self, k: int) -> float:
        """How far the quotients of step ``k`` and of the next longer one are from each other."""
        if k not in self.gaps:
            self.gaps[k] = _distance(self.value(k), self.value(k + 1))
            best = min(self.gaps, key=lambda j: self.gaps[j])
            wanted = {0, best, best + 1, k, k + 1}
            self._values = {j: v for j, v in self._values.items() if j in wanted}
        return self.gaps[k]


def _downhill(score: Callable[[int], float], start: int, good: float) -> int:
    """Where a score is least, going on either way while it falls; one place a little higher does not end it."""
    best = start
    if score(start) <= good:
        return best
    for way in (1, -1):
        k, worse = best, 0
        while abs(k + way) <= _REACH and worse < 2:
            k += way
            if score(k) < score(best):
                best, worse = k, 0
            else:
                worse += 1
                if not score(k) < _BEYOND * score(best):
                    break
    return best


def _distance(a: Tensor, b: Tensor) -> float:
    found = float(torch.linalg.vector_norm(a - b))
    return found if found - found == 0 else math.inf
