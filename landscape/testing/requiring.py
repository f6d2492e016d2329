"""One way to say that something does not hold, also where ``python -O`` drops assertions."""

from __future__ import annotations


def require(holds: bool, what: str) -> None:
    """Raise `AssertionError` with ``what`` unless it holds."""
    if not holds:
        raise AssertionError(what)
