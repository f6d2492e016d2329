"""Local flatness: the mean rise at distance gamma (SWAD, Cha et al. 2021, arXiv 2102.08604, section 3.2).

F_gamma(w) = E_{u uniform on the unit sphere} [L(w + gamma·u) − L(w)]
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..base.progress import report
from ..numerics.intervals import mean_and_stderr
from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import SharpnessSpec
from .engine.measurement import Measurement
from .engine.noise import draws


def local_flatness(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """F_gamma for every radius gamma (``rho``), over 100 directions, the same for every network.

    A gamma means something between networks of equal weight norm only, so ``relative_radius`` = gamma/‖w‖ is beside
    it; ``p05`` and ``p95`` are percentiles over the directions.
    """
    count = spec.draws or 100
    gammas = spec.rho or (0.5, 1.0, 2.0, 5.0)
    before, norm = problem.loss_tensor(), float(torch.linalg.vector_norm(wide(problem.weights)))
    rises = torch.zeros(len(gammas), count, dtype=torch.float64)
    for i, z in enumerate(draws(problem, count, seed, "local flatness")):
        unit = z / torch.linalg.vector_norm(z)
        for g, gamma in enumerate(gammas):
            with problem.temporary_weights():
                problem.space.write(problem.weights + gamma * unit)
                rises[g, i] = problem.loss_tensor() - before
        report("local flatness", i + 1, count)
    for gamma, row in zip(gammas, rises.numpy(), strict=True):
        value, stderr = mean_and_stderr(row)
        low, high = np.percentile(row, [5, 95])
        facts = {"relative_radius": gamma / norm, "p05": float(low), "p95": float(high)}
        yield Measurement(value=value, stderr=stderr, n_blocks=count, rho=gamma, p="2", adaptive=False, facts=facts)
