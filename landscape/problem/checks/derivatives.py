"""Whether autograd's derivatives are those of the loss: compared with differences, in float64, on a few examples.

A tensor that was detached, a forward inside ``torch.no_grad()``, a straight-through estimate, a hook that scales
gradients: what comes back from ``backward`` is then not the slope of the loss, and what a second backward gives is
the curvature of something else. Nothing in the numbers shows it, so it is asked of every network.

Autograd is believed where one of several steps confirms it: rounding wants a long step, kinks a short one. It is
contradicted where the quotients of two steps agree with each other and not with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...base.errors import LandscapeError
from ...runtime.devices import wide
from ...runtime.distributed import no_sharding
from ...sharding.vectors import own_part
from .local_loss import LocalPoint, near, too_large
from .substitutions import compare_forms

if TYPE_CHECKING:
    from ..problem import Problem

_SETTLED = 0.1  # quotients that differ by less than this share of what is in question agree with each other
_CLOSE = 0.02  # quotients that do not agree with each other, and come so close, speak for the derivative
_GROUPS = 16  # of parameters, that are moved one after the other to find those that disagree
_DRAWS = 4  # of directions, to say by how much
_NAMED = 3
_VECTORS = 8  # as long as the weights, that are held at once


@dataclass(frozen=True)
class _Limits:
    """How closely derivatives and quotients can agree, and the steps to try, in units of the parameters' sizes."""

    tolerance: float
    of_loss: tuple[float, ...]
    of_gradient: tuple[float, ...]
    tiny: float


_LIMITS = {
    torch.float64: _Limits(1e-4, (1e-7, 1e-9, 1e-5, 1e-4, 3e-3), (1e-6, 1e-8, 1e-10, 1e-4, 1e-3), 1e-14),
    torch.float32: _Limits(2e-2, (1e-2, 3e-3, 3e-2), (1e-2, 1e-3, 3e-2), 1e-7),
}


@dataclass(frozen=True)
class Compared:
    """One derivative beside its differences.

    Attributes:
        error: Relative difference; None where the two cannot be told apart from rounding, or the quotients of
            different steps do not agree with each other.
        wrong: Whether the quotients agree with each other, and not with the derivative.
        settled: Whether the quotients allow a judgement.
        parameters: Names of those that disagree most, if it is wrong.
    """

    error: float | None
    wrong: bool
    settled: bool
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Derivatives:
    """What was found for one network and loss.

    Attributes:
        gradient: The gradient beside differences of the loss; None if it could not be made.
        product: The Hessian product beside differences of the gradient; None if not asked for or not made.
        examples: How many were looked at.
        dtype: In what.
        reason: Why nothing was compared, if so.
    """

    gradient: Compared | None
    product: Compared | None
    examples: int
    dtype: torch.dtype | None
    reason: str = ""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters whose derivatives disagree most."""
        return next((c.parameters for c in (self.gradient, self.product) if c is not None and c.wrong), ())

    def note(self, of: str = "gradient") -> str | None:
        """What a reader should know, or None where the derivatives are those of the loss.

        Args:
            of: What was computed: something from the ``gradient``, or a curvature matrix by its name.
        """
        product = self.product if self.product is not None and self.product.wrong else None
        if self.gradient is not None and self.gradient.wrong:
            return (
                "the gradient is not the slope of the loss (a stop-gradient, straight-through estimate or hook?): "
                f"off by {_share(self.gradient)}; {_consequence(of, product)}"
            )
        if of == "hessian" and product is not None:
            return (
                f"the curvature product is not the derivative of the gradient: off by {_share(product)}; "
                "an operation has a wrong second derivative"
            )
        if self.gradient is None:
            return f"the gradient could not be compared with differences of the loss ({self.reason})"
        if not self.gradient.settled:
            return (
                "the gradient could not be compared with differences of the loss, which jumps or is rounded coarsely "
                "inside the forward"
            )
        return None

    def record(self, of: str = "gradient") -> dict[str, Any]:
        """For a command's object; for ``of`` see `note`."""
        return {
            "gradient_error": self.gradient.error if self.gradient else None,
            "product_error": self.product.error if self.product else None,
            "parameters": list(self.parameters),
            "examples": self.examples,
            "dtype": str(self.dtype).removeprefix("torch.") if self.dtype else None,
            "note": self.note(of),
        }


def _consequence(of: str, product: Compared | None) -> str:
    if of == "gradient":
        return "what is computed from it (norm, ascent, direction) is not of the loss"
    if of != "hessian":
        return f"{of} is made of the derivatives that autograd gives, not of those of the outputs and the loss"
    if product is None:
        return "curvature here is the derivative of that gradient, not of the loss"
    return (
        "curvature here is neither the second derivative of the loss nor the derivative of that gradient "
        f"({_percent(product)} off)"
    )


def _share(found: Compared) -> str:
    named = f", most in {', '.join(found.parameters)}" if found.parameters else ""
    return f"{_percent(found)}{named}"


def _percent(found: Compared) -> str:
    return f"{100 * (found.error or 0):.2g} %"


@no_sharding()
def derivatives(problem: Problem, *, product: bool = False) -> Derivatives:
    """Compare the gradient with differences of the loss, and a Hessian product with differences of the gradient.

    Looked at once for a problem and kept. In float64, or where the network does not run in it, in its own type.

    Args:
        problem: Network, loss and examples.
        product: Compare a Hessian product, too.

    Raises:
        NumericalError: If a custom function has no second derivative, or an equal form another value.
    """
    known: dict[Any, Derivatives] = problem.__dict__.setdefault("_derivatives", {})
    for asked in (product, True):
        if (problem.params, asked) in known:
            return known[problem.params, asked]
    found = Derivatives(None, None, 0, None)
    for dtype in dict.fromkeys((torch.float64, problem.dtype)):
        needed = _VECTORS * own_part(problem.weights).numel() * dtype.itemsize
        if too_large(problem, needed):
            found = Derivatives(None, None, 0, None, f"it takes {needed / 2**30:.1f} GB of memory")
            continue
        try:
            found = _looked_at(problem, dtype, product)
            break
        except LandscapeError:
            raise
        except Exception as error:  # whatever somebody's forward raises in another type than its own
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            found = Derivatives(None, None, 0, None, reason[:200])
    known[problem.params, product] = found
    return found


def _looked_at(problem: Problem, dtype: torch.dtype, product: bool) -> Derivatives:
    limits = _LIMITS.get(dtype, _LIMITS[torch.float32])
    with near(problem, dtype) as point:
        gradient = _gradient_beside_losses(point, limits)
        found = None
        if product:
            compare_forms(point, dtype)
            found = _product_beside_gradients(point, limits)
        return Derivatives(gradient, found, point.examples, dtype)


# -- one derivative beside its differences -------------------------------------------------------------------------


def _gradient_beside_losses(point: LocalPoint, limits: _Limits) -> Compared:
    parts = point.gradient()

    def slope(only: Sequence[int]) -> Tensor:
        return point.slope(parts, only)

    def differences(step: float) -> list[Tensor]:
        return point.quotient(lambda: [point.loss()], step)

    everything = range(len(parts))
    # A slope along a random direction is as large as the gradient on average; by chance it may be much smaller.
    found, step = _compare(
        [slope(everything)], differences, limits, limits.of_loss, point.rounding, least=_norm(parts)
    )
    if not found.wrong:
        return found
    gaps, whole = _gaps(point, [list(g) for g in np.array_split(everything, min(_GROUPS, len(parts)))], slope, step)
    error = whole if whole > limits.tolerance else found.error
    worst = max(gaps, key=lambda group: gaps[group])
    alone = gaps if len(gaps) == len(parts) else _gaps(point, [[i] for i in worst], slope, step)[0]
    return Compared(error, True, True, _worst(point, {group[0]: gap for group, gap in alone.items()}))


def _gaps(
    point: LocalPoint, groups: Sequence[Sequence[int]], slope: Callable[[Sequence[int]], Tensor], step: float
) -> tuple[dict[tuple[int, ...], float], float]:
    """Squared difference of slope and quotient in each group of parameters, and of all relative to the larger."""
    gaps = {tuple(group): 0.0 for group in groups}
    quotients = slopes = 0.0
    for _ in range(_DRAWS):
        for group in gaps:
            (quotient,) = point.quotient(lambda: [point.loss()], step, group)
            mine = slope(group)
            gaps[group] += float((quotient - mine) ** 2)
            quotients, slopes = quotients + float(quotient**2), slopes + float(mine**2)
        point.turn()
    return gaps, math.sqrt(sum(gaps.values()) / max(quotients, slopes, 1e-300))


def _product_beside_gradients(point: LocalPoint, limits: _Limits) -> Compared:
    mine = point.product()
    quotients: dict[float, list[Tensor]] = {}

    def differences(step: float) -> list[Tensor]:
        quotients[step] = point.quotient(point.gradient, step)
        return quotients[step]

    found, step = _compare(mine, differences, limits, limits.of_gradient, point.rounding)
    if not found.wrong:
        return found
    gaps = {
        i: float((q - m).abs().square().sum()) for i, (q, m) in enumerate(zip(quotients[step], mine, strict=True))
    }
    return Compared(found.error, True, True, _worst(point, gaps))


def _worst(point: LocalPoint, gaps: dict[int, float]) -> tuple[str, ...]:
    """The parameters that make nearly all of a disagreement, at most three, the worst first."""
    order = sorted(gaps, key=lambda i: -gaps[i])[:_NAMED]
    return tuple(point.names[i] for i in order if gaps[i] > 0.01 * gaps[order[0]])


def _compare(
    mine: list[Tensor],
    differences: Callable[[float], list[Tensor]],
    limits: _Limits,
    steps: Sequence[float],
    floor: Callable[[], float],
    least: float = 0.0,
) -> tuple[Compared, float]:
    """A derivative beside difference quotients of several steps, the first of which is asked alone if it agrees.

    Returns:
        What is to be thought of it, and the step that told.
    """
    rounding: float | None = None  # of a difference, before it is divided
    tried: list[tuple[list[Tensor], float, float, float]] = []
    for step in steps:
        quotient = differences(step)
        gap, size = _gap(quotient, mine), max(_norm(quotient), _norm(mine), least)
        if not gap < math.inf:
            continue
        if gap <= limits.tolerance * size:
            return Compared(gap / size if size else 0.0, False, True), step
        if rounding is None:
            rounding = 30 * limits.tiny * max(k * _gap(differences(k * limits.tiny), mine) for k in (1, 3))
        if gap <= limits.tolerance * size + rounding / step:
            return Compared(None, False, True), step
        tried.append((quotient, gap, gap / size, step))
    agree = [(x, y) for x, y in pairwise(tried) if _gap(x[0], y[0]) <= _SETTLED * min(x[1], y[1])]
    for (_, gap, error, step), _ in agree:
        # Of saturated probabilities nothing is left: quotients agree on 0, and the derivative is rounding.
        if gap * step > floor():
            return Compared(error, True, True), step
    if agree:
        return Compared(None, False, True), steps[0]
    error = min((t[2] for t in tried), default=0.0)
    return (Compared(error, False, True) if error < _CLOSE else Compared(None, False, False)), steps[0]


def _norm(parts: Sequence[Tensor]) -> float:
    return float(wide(torch.stack([torch.linalg.vector_norm(p) for p in parts])).norm())


def _gap(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return _norm([x - y for x, y in zip(a, b, strict=True)])
