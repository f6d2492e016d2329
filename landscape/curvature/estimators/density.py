"""The density of a symmetric operator's eigenvalues by stochastic Lanczos quadrature.

(Ubaru, Chen and Saad 2017, SIAM J. Matrix Anal. Appl. 38; for networks Ghorbani et al. 2019, arXiv 1901.10159.)

For a random vector v, a Lanczos run from v/‖v‖ of m steps gives nodes θᵢ (Ritz values) and weights
wᵢ = (first entry of the i-th eigenvector of T)², Σ wᵢ = 1; their mean over probes is the density, each node a point
mass. n Σ wᵢ θᵢ = vᵀHv and n Σ wᵢ θᵢ² = ‖Hv‖² hold exactly for signs, so that every probe is one of the trace, too.

Where p eigenpairs are known, a run orthogonal to them needs p steps less for as many nodes: each known eigenvalue is
a node of weight 1/n, exactly, on which a run of its own would spend a step, and whose weight it would only guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...base.progress import report
from ..lanczos.eigenpairs import KrylovRun
from ..lanczos.krylov import Krylov, Matrix
from ..lanczos.subspace import Subspace
from .probes import Probes

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
        """Share of the eigenvalues below ``-sigma``, and its standard error.

        Nearer to zero the density does not resolve a sign: most of a network's eigenvalues are there.
        """
        pairs = zip(self.nodes, self.weights, strict=True)
        each = np.array([float(w[t < -self.sigma].sum()) for t, w in pairs])
        return float(each.mean()), _stderr(each)


def _stderr(each: Matrix) -> float:
    return float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")


def quadrature(run: KrylovRun, n: int) -> tuple[Matrix, Matrix]:
    """Nodes, ascending, and weights of a run in ``n`` dimensions; the weights add up to 1."""
    theta, u = np.linalg.eigh(run.projected)
    p = len(run.apart)
    nodes = np.concatenate([theta, run.apart])
    weights = np.concatenate([(u[run.start] if len(u) else theta) ** 2 * (1 - p / n), np.full(p, 1 / n)])
    order = np.argsort(nodes)
    return nodes[order], weights[order]


def run_of(
    probes: Probes, index: int, nodes: int, settled: Subspace | None = None, *, done: int = 0, runs: int = 1
) -> KrylovRun:
    """A Lanczos run from probe ``index``, of as many steps as ``nodes`` less the known eigenpairs.

    Args:
        probes: The probes; the product with this one is not made again.
        index: Which probe.
        nodes: Wanted nodes of the quadrature.
        settled: Known eigenvectors; the run is orthogonal to them.
        done: Runs that were made before, of ``runs``: for the progress alone.
        runs: How many there will be.
    """
    generator = torch.Generator().manual_seed(probes.seed)

    def fresh() -> torch.Tensor:
        return probes.draws.normal(generator)

    start, image = probes.vector(index), probes.product(index, keep=True)
    deflated, apart = None, np.zeros(0)
    if settled is not None and len(settled):
        start, image = settled.rest(start), settled.image_of_rest(start, image)
        deflated, apart = settled.basis, (settled.basis * settled.images).sum(1).cpu().numpy()
    steps = min(nodes - len(apart), probes.n)
    space = Krylov(probes.operator, start[None], fresh, first_image=image, deflated=deflated)
    while space.size < min(nodes - len(apart), space.room):
        space.grow()
        report("density", done * steps + space.size, runs * steps)
        if not space.coupling.any():  # an invariant subspace: the quadrature is exact
            break
    probes.made += space.products - 1  # the first was the probe's own
    return KrylovRun(space.recursion(), apart)


def density(runs: list[KrylovRun], n: int, *, products: int = 0, sigma: float | None = None) -> Density:
    """The density from one run per probe.

    Args:
        runs: The runs.
        n: Rows of the operator.
        products: What they cost, for the record.
        sigma: Width of the smoothing; default: a twentieth of the range that holds the central 90 % of the
            eigenvalues, so that a few outliers do not smear the bulk, and at least a thousandth of the whole range.
    """
    pairs = [quadrature(r, n) for r in runs]
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
