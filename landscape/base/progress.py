"""Progress without printing: the library reports, the command line (or a notebook) shows.

Nothing is shown unless a reporter was installed with `reporting`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Reporter(Protocol):
    """Receives progress of named tasks. One task may report many times; ``done == total`` ends it."""

    def __call__(self, task: str, done: int, total: int | None, note: str = "") -> None:
        """Take notice that ``done`` of ``total`` units (None: unknown) of ``task`` are finished."""


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


def report(task: str, done: int, total: int | None = None, note: str = "") -> None:
    """Report that ``done`` of ``total`` units of ``task`` are finished."""
    reporter = _reporter.get()
    if reporter is not None:
        reporter(task, done, total, note)
