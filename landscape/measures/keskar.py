"""Keskar's eps-sharpness (Keskar et al. 2017, arXiv 1609.04836, metric 2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.progress import report
from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import SharpnessSpec
from .engine.measurement import Measurement
from .engine.noise import draws

_ITERATIONS = 10
_COLUMNS = 100


def keskar(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """100·(max_{z in C} L(w + z) − L(w))/(1 + L(w)), C = {|z_i| ≤ eps(|w_i| + 1)}, by 10 iterations of L-BFGS-B.

    eps is ``rho``; the paper's values are 1e-3 and 5e-4.
    """
    del seed
    yield from _measure(problem, spec, None)


def keskar_subspace(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """The same over w + Az with a Gaussian A of 100 columns, C = {|z_i| ≤ eps(|(A⁺w)_i| + 1)}."""
    columns = min(_COLUMNS, problem.n_parameters)
    yield from _measure(problem, spec, torch.stack(list(draws(problem, columns, seed, "keskar")), dim=1))


def _measure(problem: Problem, spec: SharpnessSpec, basis: Tensor | None) -> Iterator[Measurement]:
    from scipy.optimize import minimize

    centre, before = problem.weights, float(problem.loss_tensor())
    inside = centre if basis is None else _least_squares(basis, centre)
    reach = wide(inside.abs()).cpu().numpy() + 1

    for eps in spec.rho or (1e-3,):
        best = before

        def negative(z: object) -> tuple[float, Any]:
            nonlocal best
            step = torch.from_numpy(np.ascontiguousarray(z)).to(centre.device, centre.dtype)
            with problem.temporary_weights(), torch.enable_grad():
                problem.space.write(centre + (step if basis is None else basis @ step))
                loss, gradient = problem.loss_and_gradient()
            best = max(best, float(loss))
            slope = gradient if basis is None else basis.T @ gradient
            return -float(loss), -wide(slope).cpu().numpy()

        bounds = np.stack([-eps * reach, eps * reach], axis=1)
        limit = {"maxiter": _ITERATIONS}
        minimize(negative, np.zeros(len(reach)), jac=True, method="L-BFGS-B", bounds=bounds, options=limit)
        report("Keskar's sharpness", 1, 1)
        facts = {"subspace": None if basis is None else basis.shape[1], "loss_maximum": best}
        yield Measurement(value=100 * (best - before) / (1 + before), rho=eps, p="inf", facts=facts)


def _least_squares(basis: Tensor, vector: Tensor) -> Tensor:
    """A⁺w, ``(columns,)``."""
    solution: Tensor = torch.linalg.lstsq(wide(basis), wide(vector)[:, None]).solution[:, 0]
    return solution
