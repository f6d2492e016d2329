"""Directions of steepest ascent: the gradient, of one domain alone, and the steps of SAM and ASAM as units."""

from __future__ import annotations

import torch
from torch import Tensor

from ...base.errors import NumericalError
from ...numerics.ascent import ascent_step
from ...problem.problem import Problem
from ...runtime.devices import wide
from .direction import Direction, centre_of

_ETA = 0.01


def gradient_direction(problem: Problem) -> Direction:
    """The direction g / ‖g‖ over all parameters: x is the distance travelled uphill."""
    gradient, norm = _gradient(problem, "grad")
    return Direction("grad", [g / norm for g in gradient], facts={"gradient_norm": norm})


def domain_gradient_direction(problem: Problem, domain: str) -> Direction:
    """The direction g_i / ‖g_i‖, the gradient of one domain's loss alone.

    Two such axes are left oblique; their cosine, which SAGM (arXiv 2303.10353) and DISAM (arXiv 2405.18861)
    argue about, is reported with every surface.
    """
    kind = f"domain-grad:{domain}"
    gradient, norm = _gradient(problem.restrict_to_domain(domain), kind)
    return Direction(kind, [g / norm for g in gradient], facts={"gradient_norm": norm})


def sam_direction(problem: Problem, rho: float) -> Direction:
    """The step ρ g / ‖g‖ (arXiv 2010.01412, Eq. 2): x = 1 is the point that SAM perturbs to, on these examples."""
    gradient, norm = _gradient(problem, f"sam:{rho:g}")
    facts = {"rho": rho, "gradient_norm": norm}
    return Direction(f"sam:{rho:g}", ascent_step(gradient, rho), facts=facts)


def asam_direction(problem: Problem, rho: float) -> Direction:
    """The step ρ T²g / ‖Tg‖ (arXiv 2102.11600): x = 1 is ASAM's perturbed point.

    As in its authors' code T = |w| + 0.01 for every parameter with ``weight`` in its name (scales of
    normalisation layers included), and 1 for all others. The step is not of length ρ.
    """
    kind = f"asam:{rho:g}"
    gradient, norm = _gradient(problem, kind)
    scales = [
        w.abs() + _ETA if "weight" in n else torch.ones_like(w)
        for n, w in zip(problem.space.names, centre_of(problem), strict=True)
    ]
    scaled = ascent_step([t * g for t, g in zip(scales, gradient, strict=True)], rho)
    facts = {"rho": rho, "eta": _ETA, "gradient_norm": norm}
    return Direction(kind, [t * e for t, e in zip(scales, scaled, strict=True)], facts=facts)


def _gradient(problem: Problem, kind: str) -> tuple[list[Tensor], float]:
    """The gradient by parameter, and its norm.

    Raises:
        NumericalError: If it is zero or not finite: it has no direction then.
    """
    gradient = problem.gradient()
    norm = float(torch.linalg.vector_norm(wide(gradient)))
    if not 0 < norm < float("inf"):
        raise NumericalError(
            f"the gradient's norm is {norm}, so {kind} is no direction", "`direction=`", "use another"
        )
    return problem.space.split(gradient), norm
