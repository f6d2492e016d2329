"""Average-case sharpness: the mean rise under random noise on the weights (Andriushchenko et al. 2023, 2302.07011).

    S_avg = E_δ L(w + δ) − L(w),   δ ~ N(0, rho² diag c²), or uniform on rho·c·[−1, 1] for p = inf,

with c = |w| (adaptive) or 1. The mean over blocks of examples is the loss of all of them, so blocks play no part;
every draw moves all examples.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..base.errors import UsageError
from ..base.progress import report
from ..numerics.intervals import mean_and_stderr
from ..problem.problem import Problem
from ..specs import SharpnessSpec
from .engine.measurement import Measurement
from .engine.noise import draws
from .engine.norm_ball import elementwise


def average_case(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """Mean rise under isotropic noise of standard deviation rho (c = 1); standard error over the draws."""
    yield from _measure(problem, spec, seed, adaptive=False)


def average_case_adaptive(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """Mean rise under noise of standard deviation rho·|w|, weight by weight; standard error over the draws."""
    yield from _measure(problem, spec, seed, adaptive=True)


def _measure(problem: Problem, spec: SharpnessSpec, seed: int, *, adaptive: bool) -> Iterator[Measurement]:
    if spec.p == "1":
        raise UsageError("average-case sharpness is defined for p = 2 and inf", "`p=1`", "choose 2 or inf")
    count = spec.draws or 100
    before = problem.loss_tensor()
    scale = elementwise(problem) if adaptive else torch.ones_like(problem.weights)
    for rho in spec.rho or ((0.1,) if adaptive else (0.01,)):
        rises = []
        for i, z in enumerate(draws(problem, count, seed, "average-case", uniform=spec.p == "inf")):
            with problem.temporary_weights():
                problem.space.write(problem.weights + rho * scale * z)
                rises.append(problem.loss_tensor() - before)
            report(f"average-case sharpness, rho = {rho:g}", i + 1, count)
        value, stderr = mean_and_stderr(torch.stack(rises).cpu())
        yield Measurement(value=value, stderr=stderr, n_blocks=count, rho=rho, p=spec.p, adaptive=adaptive)
