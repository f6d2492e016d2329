"""What each analysis is told, beyond the problem it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..registry import MEASURES
from .base import Spec, check_choice, check_distinct, check_number

DEFAULT_M = (1, 4, 16, 64, 256)


@dataclass(frozen=True, kw_only=True)
class HessianSpec(Spec):
    """Extreme eigenvalues of the Hessian of the mean loss."""

    top: int = 5
    """How many of the algebraically largest eigenvalues."""
    bottom: int = 0
    """How many of the algebraically smallest eigenvalues (negative curvature)."""
    tol: float = 1e-3
    """Largest accepted residual ||Hv - lambda v|| / |lambda_max|."""
    max_products: int | None = None
    """Budget of Hessian-vector products, checks not counted (default: 20 per wanted pair, at least 200)."""
    allow_partial: bool = False
    """Accept pairs above --tol when the budget ends (they are marked)."""

    def __post_init__(self) -> None:
        check_number("top", self.top, least=1)
        check_number("bottom", self.bottom, least=0)
        check_number("tol", self.tol, above=0, most=1)
        check_number("max_products", self.max_products, least=1)


@dataclass(frozen=True, kw_only=True)
class SharpnessSpec(Spec):
    """How much the loss rises at the worst point of a small neighbourhood."""

    measure: tuple[str, ...] = ("m-sharpness",)
    """Measures; see `landscape list measures`."""
    m: tuple[int, ...] = ()
    """Examples per block; each block gets its own ascent step (default: those of 1 4 16 64 256 that fit)."""
    rho: tuple[float, ...] = (0.05,)
    """Radius of the ascent step, not rescaled with m."""
    p: Literal["1", "2", "inf"] = "2"
    """Norm of the ball."""
    adaptive: bool = False
    """Measure the step in units of |w| elementwise (invariant under rescaling)."""

    def __post_init__(self) -> None:
        check_distinct("measure", self.measure)
        for name in self.measure:
            check_choice("measure", name, MEASURES)
        if self.m:
            check_distinct("m", self.m)
        check_distinct("rho", self.rho)
        for m in self.m:
            check_number("m", m, least=1)
        for rho in self.rho:
            check_number("rho", rho, least=0)


@dataclass(frozen=True, kw_only=True)
class DomainsSpec(Spec):
    """Per-domain loss and accuracy, their spread, and how the domains' gradients agree."""
