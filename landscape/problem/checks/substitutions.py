"""Whether what stands in for operations without a right second derivative gives the network's own loss."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

import torch
from torch import nn

from ...autograd.second_derivatives import NoSecondDerivative
from ...base.errors import LandscapeError
from ...runtime.distributed import no_sharding
from ...sharding.vectors import own_part
from .local_loss import LocalPoint, near, too_large

if TYPE_CHECKING:
    from ..problem import Problem

_COMPARED: WeakSet[nn.Module] = WeakSet()
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative; distances of close points lose half of all digits
_VECTORS = 5  # as long as the weights, that are held at once
_LEAST = 1e-4  # a loss below it is made of outputs that are larger, and rounded with them


@no_sharding()
def require_equal_forms(problem: Problem) -> None:
    """Compare the loss of a few examples with and without the equal forms, once for a network.

    Raises:
        NoSecondDerivative: If they differ by more than rounding; names the operation.
    """
    if problem.model in _COMPARED:
        return
    for dtype in dict.fromkeys((torch.float64, problem.dtype)):
        if too_large(problem, _VECTORS * own_part(problem.weights).numel() * dtype.itemsize):
            continue
        try:
            with near(problem, dtype) as point:
                compare_forms(point, dtype)
            return
        except LandscapeError:
            raise
        except Exception:  # a forward that runs in its own type only
            continue
    _COMPARED.add(problem.model)


def compare_forms(point: LocalPoint, dtype: torch.dtype) -> None:
    """The same at a point that is there already.

    Raises:
        NumericalError: See `require_equal_forms`.
    """
    tolerance = _ROUNDING.get(dtype, 1e-3)
    replaced, used = point.loss_with_equal_forms()
    plain = float(point.loss()) if used else float(replaced)

    def off(value: torch.Tensor) -> bool:
        return abs(float(value) - plain) > tolerance * max(abs(plain), _LEAST)

    if not off(replaced):
        _COMPARED.add(point.problem.model)
        return
    blamed = [name for name in sorted(used) if off(point.loss_with_equal_forms([name])[0])]
    name = " with ".join(blamed or sorted(used))
    raise NoSecondDerivative(
        f"{name} gives the loss {float(replaced):.7g} in its equal form and {plain:.7g} as it is",
        "curvature product",
        "write the operation differently in the model, or let products be differences (`product='auto'`)",
    )
