"""What an objective returns, and how the loss that it makes is weighed.

An objective is called with the network and one ready-made batch and returns a sum of losses and how many terms it is
a sum of, or the losses themselves, ``(n,)``. The loss of all batches is the sum of the sums over the sum of the
counts: a mean over terms (pairs, tokens, nodes, boxes), whatever the sizes of the batches. What couples the examples
of a batch is part of one term's loss, so the batch is the unit: it is never divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..base.errors import DataError, UsageError
from .losses import Loss

Objective = Callable[[Any, Any], Any]

_WANTED = "return (sum of losses, count), or one loss per example, shape (n,)"


def as_objective(objective: object) -> Any:
    """An objective as it is called: a class is one that is made without arguments.

    Raises:
        UsageError: If it can be neither called nor asked for ``output`` and ``loss``.
    """
    if isinstance(objective, type):
        try:
            objective = objective()
        except TypeError as error:
            fix = "name a function (model, batch), or an object of the class"
            raise UsageError(f"a class that needs arguments: {error}", "`objective=`", fix) from error
    if not callable(objective) and halves(objective) is None:
        raise UsageError(
            f"a {type(objective).__name__} is no objective",
            "`objective=`",
            f"give a function (model, batch): {_WANTED}",
        )
    return objective


def name_of(objective: object) -> str:
    """What an objective is called."""
    return str(getattr(objective, "__name__", type(objective).__name__))


def halves(objective: object) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]] | None:
    """``output(model, batch)`` and ``loss(output, batch)`` of an objective that can be had in two halves, or None."""
    output, loss = getattr(objective, "output", None), getattr(objective, "loss", None)
    return (output, loss) if callable(output) and callable(loss) else None


def understood(result: object, name: str) -> tuple[Tensor, float]:
    """The sum of losses, shape ``()``, and how many terms it is a sum of.

    Raises:
        DataError: If it is something else.
    """
    if isinstance(result, Tensor) and result.ndim == 1:
        _require_loss(result, name)
        return result.sum(), float(len(result))
    if isinstance(result, Tensor) and result.ndim == 0:
        what = "it returned one number, and not how many losses it is the sum or the mean of"
        raise DataError(what, name, f"{_WANTED}; (loss * n, n) where it is the mean of n")
    if not (isinstance(result, (tuple, list)) and len(result) == 2):
        raise DataError(f"it returned {_shown(result)}", name, _WANTED)
    total, count = result
    if not isinstance(total, Tensor):
        fix = "return a tensor with its graph, not .item() or float(loss)"
        raise DataError(f"its sum of losses is a {type(total).__name__}, which has no derivatives", name, fix)
    _require_loss(total, name)
    if total.numel() != 1:
        raise DataError(f"its sum of losses is a tensor of shape {tuple(total.shape)}", name, _WANTED)
    return total.reshape(()), _count(count, name)


def _count(count: Any, name: str) -> float:
    if isinstance(count, Tensor):
        if count.requires_grad:
            raise DataError("its count depends on the weights", name, "return a count that the batch decides")
        if count.numel() != 1:
            raise DataError(f"its count is a tensor of shape {tuple(count.shape)}", name, "return one number")
    try:
        number = float(count)
    except (TypeError, ValueError) as error:
        raise DataError(f"its count is {_shown(count)}", name, _WANTED) from error
    if not math.isfinite(number) or number < 0:
        raise DataError(f"its count is {number:g}", name, "return how many losses were added up, 0 where none was")
    return number


def _require_loss(values: Tensor, name: str) -> None:
    if values.is_complex():
        raise DataError("its loss is complex, and has no minimum", name, "return real numbers: .abs(), .real")
    if not values.is_floating_point():
        raise DataError(f"its loss is a tensor of {values.dtype}".replace("torch.", ""), name, _WANTED)


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (tuple, list, dict)) else "")


def weighed_by_count(name: str) -> Loss:
    """The loss of a network that computes it itself: each batch's own mean, weighed by the count of its terms."""
    return Loss(name, lambda output, counts: output, weights=lambda counts: counts)
