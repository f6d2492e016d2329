"""What each analysis is told, beyond the problem it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UsageError
from ..registry import DIRECTIONS, MEASURES
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
class SurfaceSpec(Spec):
    """The loss along one or two stored directions."""

    dim: int = 2
    """Number of axes, 1 or 2."""
    points: int = 21
    """Grid points per axis; odd counts hold the centre as a cell."""
    range: float = 1.0
    """The axes run from -R to R, in units of the directions."""
    direction: tuple[str, ...] = ("filter",)
    """Kind of the directions, one for all axes or one per axis; see `landscape list directions`."""
    repeats: int = 1
    """Random directions of a 1-D slice, drawn with successive seeds."""

    def __post_init__(self) -> None:
        if self.dim not in (1, 2):
            raise UsageError(f"dim={self.dim}", "--dim", "expected 1 or 2")
        check_number("points", self.points, least=3)
        check_number("range", self.range, above=0)
        check_number("repeats", self.repeats, least=1)
        if len(self.direction) not in (1, self.dim):
            raise UsageError(
                f"{len(self.direction)} directions for {self.dim} axes",
                "--direction",
                "give one, or one per axis",
            )
        for kind in self.direction:
            check_choice("direction", kind, DIRECTIONS)
        if self.dim == 2 and self.repeats != 1:
            raise UsageError("--repeats belongs to 1-D slices", "--repeats", "add --dim 1")

    @property
    def axes(self) -> tuple[str, ...]:
        """The kind of each axis."""
        return self.direction * self.dim if len(self.direction) == 1 else self.direction

    def to_dict(self) -> dict[str, Any]:
        """All fields, one direction per axis, so that equal requests have equal keys."""
        return {**super().to_dict(), "direction": self.axes}


@dataclass(frozen=True, kw_only=True)
class DomainsSpec(Spec):
    """Per-domain loss and accuracy, their spread, and how the domains' gradients agree."""
