"""What analyses take for a problem, and what to do with everything else that people hand over."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..base.errors import UsageError
from .problem import Problem


def require_problem(given: object, verb: str) -> None:
    """Refuse anything but a `Problem`, and say how to get one.

    Args:
        given: The first argument.
        verb: Name of the function.

    Raises:
        UsageError: If it is something else.
    """
    if isinstance(given, Problem):
        return
    if isinstance(given, nn.Module):
        way = f"landscape.{verb}(landscape.Problem(model, data, loss))"
    elif isinstance(given, (str, Path)) or hasattr(given, "path"):
        way = f"landscape.{verb}(landscape.open(target))"
    else:
        way = "make one with landscape.Problem(model, data, loss) or landscape.open(target)"
    raise UsageError(f"{verb}() takes a Problem, not a {type(given).__name__}", "problem", f"write {way}")
