"""Progress without printing: the library reports, the command line (or a notebook) shows.

Nothing is shown unless a reporter was installed with `reporting`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Reporter(Protocol):
    """Receives progress of named tasks. One task may report many times; ``done == total`` ends it."""

    def __call__(self, task: str, done: int, total: int | None, note: str = "") -> None:
        """Take notice that ``done`` of ``total`` units (None: unknown) of ``task`` are finished."""


_A_WHILE = 2.0  # seconds
_HISTORY = 12  # the last residuals that a forecast is made of
_LEAST = 4  # with fewer nothing is said

_reporter: ContextVar[Reporter | None] = ContextVar("landscape_reporter", default=None)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Send all progress reported inside the block to ``reporter``.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> seen = []
        >>> with landscape.reporting(lambda task, done, total, note: seen.append(task)):
        ...     _ = landscape.hessian(problem, top=1)
        >>> "eigenvalues" in seen
        True
    """
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


class Inside:
    """Progress inside one unit of a longer task (a product, a pass): said only once that takes a while.

    Args:
        task: What is done.
        total: Units.
    """

    def __init__(self, task: str, total: int) -> None:
        self.task, self.total, self._said = task, total, False
        self._began = time.monotonic()

    def at(self, done: int) -> None:
        """So many units are finished."""
        if self._said or time.monotonic() - self._began > _A_WHILE:
            self._said = True
            report(self.task, done, self.total)


class Forecast:
    """How many products a run will take.

    It follows the largest residual of the wanted pairs, which falls about as a power of the number of products: a
    line through the logarithms of the last ones says where the target will be met. Early on residuals stand still,
    and one that does not fall has no forecast: then none is given rather than a wrong one.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def total(self, products: int, residual: float, target: float, most: int) -> int | None:
        """Products in the end, more than there are yet and at most ``most``; None where it is not known.

        Args:
            products: Made so far.
            residual: The largest one now.
            target: What it has to fall to.
            most: The budget.
        """
        if residual > 0:
            self._seen = [*self._seen, (products, math.log(residual))][-_HISTORY:]
        if len(self._seen) < _LEAST or target <= 0 or residual <= 0:
            return None
        places, logs = [p for p, _ in self._seen], [v for _, v in self._seen]
        middle, level = sum(places) / len(places), sum(logs) / len(logs)
        spread = sum((p - middle) ** 2 for p in places)
        slope = sum((p - middle) * (v - level) for p, v in self._seen) / spread if spread else 0.0
        if slope >= 0 or products >= most:
            return None
        left = (math.log(target) - logs[-1]) / slope
        return min(most, products + max(1, math.ceil(left)))


def report(task: str, done: int, total: int | None = None, note: str = "") -> None:
    """Report that ``done`` of ``total`` units of ``task`` are finished."""
    reporter = _reporter.get()
    if reporter is not None:
        reporter(task, done, total, note)
