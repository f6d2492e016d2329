"""What analyses take for a problem, and what to do with everything else that people hand over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from torch import nn

from ..base.errors import UsageError
from ..runtime.distributed import no_sharding
from .problem import Problem

P = ParamSpec("P")
T = TypeVar("T")


def rows_shared_out(analysis: Callable[P, T]) -> Callable[P, T]:
    """An analysis of a problem whose processes share work out whole and not the sums over examples.

    Of a sharded network no process can make a pass alone: all share the examples of each.
    """

    @wraps(analysis)
    def shared(*args: P.args, **kwargs: P.kwargs) -> T:
        problem = args[0] if args else kwargs.get("problem")
        with nullcontext() if getattr(problem, "in_pieces", False) else no_sharding():
            return analysis(*args, **kwargs)

    return shared


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
