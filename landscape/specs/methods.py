"""Options of single methods: each is used by some optimizers, and refused where none of them is chosen."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from .base import Spec, check_number


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Spec):
    """What single methods understand; the default means "not given"."""

    rho: float | None = None
    """Radius of the perturbation (default: 0.05; asam 0.5, looksam 0.1)."""
    rho_min: float | None = None
    """GSAM's radius at the smallest learning rate (default: rho, so that it is constant)."""
    alpha: float | None = None
    """Weight of sagm's gradient matching (0.001), gsam's gap (0.4), looksam's kept part (0.7), entropy-sgd's mean
    (0.75)."""
    lam: float | None = None
    """Weight of the domain-loss variance (disam 0.1, vrex 1); F-SAM's decay of the mean gradient (0.9)."""
    eta: float | None = None
    """ASAM's addend to |w| (default: 0.01)."""
    sigma: float | None = None
    """Share of the mean gradient that F-SAM takes out of its climb (default: 1)."""
    gamma: float | None = None
    """WSAM's weight of the sharpness (0.9); Entropy-SGD's coupling (0.5)."""
    sam_every: int | None = None
    """LookSAM climbs every so many steps (default: 10)."""
    adaptive: bool = False
    """Measure the ball in units of |w|, elementwise."""
    p: Literal["1", "2", "inf"] | None = None
    """Norm of SAM's ball (default: 2)."""
    m: int | None = None
    """Give every micro-batch of m examples its own perturbation (default: the whole batch has one)."""
    ascent_steps: int | None = None
    """Ascent steps of length rho / n (default: 1)."""
    order: Literal[1, 2] | None = None
    """2 keeps the derivative of SAM's perturbation (default: 1)."""
    bn_second_pass: Literal["freeze", "update"] | None = None
    """Running statistics in the passes after the first (default: freeze)."""
    weight_decay_in_perturbation: bool = False
    """Differentiate the weight decay in every pass, as the official SAM code does."""
    disam_variance: Literal["domain", "sample"] | None = None
    """Variance over domains (paper) or weighted by their examples (released code) (default: domain)."""
    langevin_steps: int | None = None
    """Langevin steps of entropy-sgd (default: 20)."""
    langevin_lr: float | None = None
    """Their step length (default: 0.1)."""
    langevin_noise: float | None = None
    """Their thermal noise (default: 0.0001)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rho", "rho_min", "alpha", "lam", "eta", "sigma", "gamma", "langevin_lr", "langevin_noise"):
            check_number(name, getattr(self, name), least=0)
        for name in ("m", "ascent_steps", "sam_every", "langevin_steps"):
            check_number(name, getattr(self, name), least=1)

    def given(self, name: str) -> bool:
        """Whether a method flag was given."""
        value = getattr(self, name)
        return value is not None and value is not False


METHOD_FLAGS = tuple(f.name for f in fields(MethodOptions))
