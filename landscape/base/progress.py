"""Progress without printing: the library reports, the command line (or a notebook) shows.

Nothing is shown unless a reporter was installed with `reporting`.
"""

from __future__ import annotations

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


def report(task: str, done: int, total: int | None = None, note: str = "") -> None:
    """Report that ``done`` of ``total`` units of ``task`` are finished."""
    reporter = _reporter.get()
    if reporter is not None:
        reporter(task, done, total, note)
