"""The surrogate gap of GSAM and SAGM (Zhuang et al. 2022, arXiv 2203.08065; Wang et al. 2023, arXiv 2303.10353)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import SharpnessSpec
from .engine.measurement import Measurement
from .engine.norm_ball import NormBall


def surrogate_gap(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """H = L(w + rho·g/‖g‖) − L(w), g the gradient over all examples.

    ``rayleigh`` = 2(h − rho‖g‖)/rho² tends to gᵀHg/‖g‖² as rho → 0, at most lambda_1; ``curvature`` = 2h/rho² is what
    GSAM compares with lambda_1 at a minimum. With small rho both need float64.
    """
    del seed
    before, gradient = problem.loss_and_gradient()
    norm = float(torch.linalg.vector_norm(wide(gradient)))
    for rho in spec.rho or (0.05,):
        with problem.temporary_weights():
            problem.space.write(problem.weights + NormBall(rho).steepest(gradient[None])[0])
            gap = float(problem.loss_tensor() - before)
        facts = {
            "gradient_norm": norm,
            "rayleigh": 2 * (gap - rho * norm) / rho**2 if rho else None,
            "curvature": 2 * gap / rho**2 if rho else None,
        }
        yield Measurement(value=gap, rho=rho, p="2", adaptive=False, facts=facts)
