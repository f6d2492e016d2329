"""PAC-Bayes sigma: how much Gaussian weight noise costs a tenth of the training accuracy.

Jiang et al. 2020 (arXiv 1912.02178), with the search of robust-generalization-measures: sigma in [0, 2] by
bisection, at most 15 halvings, 10 draws, done when the mean accuracy drop is within 0.01 of 0.1. The draws are the
same for every sigma, so the drop is one function of sigma; BatchNorm is not folded into convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UsageError
from ..base.progress import report
from ..numerics.intervals import mean_and_stderr
from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import SharpnessSpec
from .engine.measurement import Measurement
from .engine.noise import draws

_DROP, _TOLERANCE, _HIGHEST, _HALVINGS, _DRAWS = 0.1, 0.01, 2.0, 15, 10


def pac_bayes_sigma(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """The sigma whose noise N(0, sigma²) on every weight lowers the accuracy by 0.1 on average; larger is flatter."""
    yield _search(problem, spec, seed, magnitude_aware=False)


def pac_bayes_sigma_magnitude(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """The same with noise of standard deviation sigma·|w| + 0.001, weight by weight."""
    yield _search(problem, spec, seed, magnitude_aware=True)


def noise_scale(problem: Problem, sigma: float, *, magnitude_aware: bool) -> Tensor:
    """Standard deviation of the noise on each weight, ``(n_parameters,)``."""
    if magnitude_aware:
        return sigma * problem.weights.abs() + 1e-3
    return torch.full_like(problem.weights, sigma)


def _search(problem: Problem, spec: SharpnessSpec, seed: int, *, magnitude_aware: bool) -> Measurement:
    accuracy = problem.evaluate().accuracy
    if accuracy is None:
        raise UsageError("PAC-Bayes sigma needs classes to lose accuracy on", "`measure=`", "choose another measure")
    count = spec.draws or _DRAWS

    def drops(sigma: float) -> tuple[float, float | None]:
        """Mean accuracy drop over the draws, and its standard error."""
        scale = noise_scale(problem, sigma, magnitude_aware=magnitude_aware)
        lost = []
        for z in draws(problem, count, seed, "pac-bayes"):
            with problem.temporary_weights():
                problem.space.write(problem.weights + scale * z)
                found = problem.evaluate().accuracy
                assert found is not None
                lost.append(accuracy - found)
        return mean_and_stderr(lost)

    low, high, sigma = 0.0, _HIGHEST, _HIGHEST
    drop, spread = drops(sigma)
    reached = drop >= _DROP - _TOLERANCE
    for i in range(_HALVINGS if reached else 0):
        if abs(drop - _DROP) < _TOLERANCE:
            break
        sigma = (low + high) / 2
        drop, spread = drops(sigma)
        low, high = (sigma, high) if drop < _DROP else (low, sigma)
        report("PAC-Bayes sigma", i + 1, _HALVINGS)
    facts: dict[str, Any] = {
        "accuracy_drop": drop,
        "accuracy_drop_stderr": spread,
        "magnitude_aware": magnitude_aware,
    }
    if not reached:
        facts["note"] = f"noise of sigma = {_HIGHEST:g} lowers the accuracy by only {drop:.3g}"
        return Measurement(value=None, n_blocks=count, facts=facts)
    n, norm = problem.n_examples, float(torch.linalg.vector_norm(wide(problem.weights)))
    facts["flatness"] = math.sqrt(1 / sigma**2 / n)
    facts["bound"] = math.sqrt((norm**2 / (4 * sigma**2) + math.log(n / sigma) + 10) / n)
    slope = (drops(1.1 * sigma)[0] - drops(0.9 * sigma)[0]) / (0.2 * sigma)
    # The error of sigma is the error of the drop divided by how fast the drop grows (delta method).
    stderr = spread / slope if spread is not None and slope > 0 else None
    return Measurement(
        value=sigma, stderr=stderr if stderr is None or np.isfinite(stderr) else None, n_blocks=count, facts=facts
    )
