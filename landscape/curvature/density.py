"""The density of a symmetric operator's eigenvalues by stochastic Lanczos quadrature.

(Ubaru, Chen and Saad 2017, SIAM J. Matrix Anal. Appl. 38; for networks Ghorbani et al. 2019, arXiv 1901.10159.)

For a probe v of random signs, a Lanczos run from v/√n of m steps gives nodes θᵢ (Ritz values) and weights
wᵢ = (first entry of the i-th eigenvector of T)², Σ wᵢ = 1; their mean over probes is the density, each node a point
mass. n Σ wᵢ θᵢ = vᵀHv and n Σ wᵢ θᵢ² = ‖Hv‖² hold exactly, so that every probe is one of the trace, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..progress import report
from .estimates import Probes
from .krylov import Krylov, Matrix

_POINTS = 512


@dataclass(frozen=True)
class Density:
    """Point masses and the smoothed curve made of them.

    Attributes:
        nodes: One array per probe, ascending.
        weights: One array per probe, each adding up to 1.
        sigma: Standard deviation of the Gaussian that smooths the curve, in units of the eigenvalue.
        grid: Where the curve is evaluated, ``(g,)``.
        curve: Mean over probes, ``(g,)``, per unit of eigenvalue.
        stderr: Standard error of the mean over probes, ``(g,)``; NaN from one probe.
        products: Products that it took beyond what was known.
    """

    nodes: list[Matrix]
    weights: list[Matrix]
    sigma: float
    grid: Matrix
    curve: Matrix
    stderr: Matrix
    products: int

    def moment(self, power: int) -> tuple[float, float]:
        """Mean over probes of Σ w θ^power, and its standard error (NaN from one probe)."""
        each = np.array([float(w @ t**power) for t, w in zip(self.nodes, self.weights, strict=True)])
        return float(each.mean()), _stderr(each)

    @property
    def negative_mass(self) -> tuple[float, float]:
        """Share of the eigenvalues below zero (beyond rounding), and its standard error."""
        scale = max(float(np.abs(t).max()) for t in self.nodes)
        pairs = zip(self.nodes, self.weights, strict=True)
        each = np.array([float(w[t < -1e-7 * scale].sum()) for t, w in pairs])
        return float(each.mean()), _stderr(each)


def _stderr(each: Matrix) -> float:
    return float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")


def quadrature(recursion: Matrix) -> tuple[Matrix, Matrix]:
    """Nodes and weights of the start vector from the projected matrix of its run."""
    theta, u = np.linalg.eigh(recursion)
    return theta, u[0] ** 2


def run_of(probes: Probes, index: int, steps: int) -> Matrix:
    """The projected matrix ``(steps, steps)`` of a Lanczos run from probe ``index``."""
    generator = torch.Generator().manual_seed(probes.seed)

    def fresh() -> torch.Tensor:
        return torch.randn(probes.n, generator=generator, dtype=torch.float64).to(probes.device)

    known = probes.product(index, keep=True)
    space = Krylov(probes.operator, probes.vector(index)[None], fresh, first_image=known)
    while space.size < min(steps, probes.n):
        space.grow()
        if not space.coupling.any():  # an invariant subspace: the quadrature is exact
            break
    probes.made += space.products - 1  # the first was the probe's own
    return space.recursion()


def density(runs: list[Matrix], *, products: int = 0, sigma: float | None = None) -> Density:
    """The density from the projected matrices of one run per probe.

    Args:
        runs: ``(m, m)`` each.
        products: What they cost, for the record.
        sigma: Width of the smoothing; default: a twentieth of the range that holds the central 90 % of the
            eigenvalues, so that a few outliers do not smear the bulk, and at least a thousandth of the whole range.
    """
    pairs = [quadrature(r) for r in runs]
    nodes, weights = [p[0] for p in pairs], [p[1] for p in pairs]
    low, high = min(t[0] for t in nodes), max(t[-1] for t in nodes)
    width = sigma if sigma is not None else _bulk_width(np.concatenate(nodes), np.concatenate(weights), high - low)
    grid = _grid(nodes, low, high, width)
    each = np.stack([_smooth(grid, t, w, width) for t, w in pairs])
    stderr = each.std(axis=0, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.full(len(grid), np.nan)
    report("density", len(runs), len(runs))
    return Density(nodes, weights, width, grid, each.mean(0), stderr, products)


def _bulk_width(nodes: Matrix, weights: Matrix, whole: float) -> float:
    order = np.argsort(nodes)
    cumulative = np.cumsum(weights[order]) / weights.sum()
    low, high = (nodes[order][np.searchsorted(cumulative, q)] for q in (0.05, 0.95))
    scale = float(np.abs(nodes).max())
    return float(max((high - low) / 20, 1e-3 * whole)) or 1e-3 * scale or 1.0


def _grid(nodes: list[Matrix], low: float, high: float, width: float) -> Matrix:
    """Even points over the whole range, and finer ones around every node, where the curve has its peaks."""
    even = np.linspace(low - 5 * width, high + 5 * width, _POINTS)
    peaks = np.unique(np.concatenate(nodes))
    near = (peaks[:, None] + width * np.linspace(-4, 4, 17)[None]).reshape(-1)
    return np.unique(np.concatenate([even, near]))


def _smooth(grid: Matrix, nodes: Matrix, weights: Matrix, width: float) -> Matrix:
    z = (grid[:, None] - nodes[None]) / width
    curve: Matrix = (np.exp(-0.5 * z * z) @ weights) / (width * np.sqrt(2 * np.pi))
    return curve
