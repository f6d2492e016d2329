"""The trace of a symmetric operator by sketches of its range: Hutch++ and XTrace.

Both take the range of a sketch out exactly and sample only the rest, as `hutchinson` does with the Krylov space of an
eigenvalue run; they need no such run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...base.progress import report
from ..lanczos.krylov import Multiply
from .estimates import LEAST_SAMPLES, Estimate
from .probes import rademacher

_GROUPS = 20  # of the jackknife


def hutch_pp(
    operator: Multiply,
    n: int,
    *,
    rtol: float,
    seed: int = 0,
    max_products: int = 1000,
    device: torch.device | str = "cpu",
) -> Estimate:
    """Hutch++ (Meyer et al. 2021, arXiv 2010.09649, algorithm 1), grown until its standard error is small enough.

    The range of a sketch is taken out exactly and the rest sampled; a third of the products each for the sketch,
    the range and the rest. The standard error is that of the rest.

    Args:
        operator: The operator.
        n: Rows.
        rtol: Relative standard error at which to stop.
        seed: Of the random signs.
        max_products: Budget.
        device: Where vectors live.
    """
    # The sketch and the rest take odd and even probes, so that growing either changes nothing drawn before.
    basis = torch.empty((0, n), dtype=torch.float64, device=device)
    images = basis
    rest: list[tuple[Tensor, Tensor]] = []
    products = k = 0
    while True:
        for _ in range(max(LEAST_SAMPLES, k // 2)):  # grow by half
            sketch = operator(rademacher(n, seed, 2 * k).to(device)).to(device, torch.float64)
            k += 1
            products += 1
            row = _fresh_direction(sketch, basis)
            if row is not None:
                basis = torch.cat([basis, row[None]])
                images = torch.cat([images, operator(row).to(device, torch.float64)[None]])
                products += 1
            v = rademacher(n, seed, 2 * len(rest) + 1).to(device)
            rest.append((v, operator(v).to(device, torch.float64)))
            products += 1
            report("trace", products, None)
        inside = float((basis * images).sum())
        samples = []
        for v, image in rest:  # gᵀHg with g = v − QᵀQv, from Hv and HQ alone
            c = basis @ v
            samples.append(float(v @ image - 2 * (c @ (basis @ image)) + c @ (images @ basis.T) @ c))
        found = Estimate.of(samples, products=products, rtol=rtol, method="hutch++", offset=inside)
        if found.converged or products >= max_products or len(basis) >= n:
            return found


def xtrace(
    operator: Multiply,
    n: int,
    *,
    rtol: float,
    seed: int = 0,
    max_products: int = 1000,
    device: torch.device | str = "cpu",
) -> Estimate:
    """XTrace (Epperly, Tropp and Webber 2024, arXiv 2301.07825), grown until its error estimate is small enough.

    Each of m sketch vectors in turn is left out of the range and used as the probe of the rest; the estimate is the
    mean of these m. They share all other vectors, so that their spread (the error estimate of the paper's section
    2.3) is less than the error: intervals from it held the trace in 78 to 88 % of seeds. The standard error here is
    the jackknife's, from the same estimate without one vector, or one of twenty groups of them, in turn. It needs no
    product, and on average it is not too small (Efron and Stein 1981).

    Args:
        operator: The operator.
        n: Rows.
        rtol: Relative standard error at which to stop.
        seed: Of the random signs.
        max_products: Budget.
        device: Where vectors live.
    """
    probes = torch.empty((0, n), dtype=torch.float64, device=device)
    sketch = probes
    products = 0

    def multiply(vector: Tensor) -> Tensor:
        nonlocal products
        products += 1
        report("trace", products, None)
        return operator(vector).to(device, torch.float64)

    while True:
        more = min(max(LEAST_SAMPLES, len(probes) // 2), n - len(probes))
        new = torch.stack([rademacher(n, seed, len(probes) + i).to(device) for i in range(more)])
        probes = torch.cat([probes, new])
        sketch = torch.cat([sketch, torch.stack([multiply(v) for v in new])])
        q, r = torch.linalg.qr(sketch.T)
        images = torch.stack([multiply(row) for row in q.T])
        m = len(probes)
        h = images @ q
        # Leaving sketch i out of the range removes the direction s_i: the normalised i-th column of R^-T.
        if bool(r.diagonal().abs().min() <= 1e-12 * r.diagonal().abs().max()):
            value = float(h.trace())  # the range is the whole image of the operator: nothing is left to sample
            return Estimate(value, 0.0, (value, value), m, products, True, "xtrace")
        whole = (probes * sketch).sum(1)
        parts = _Sketch(
            r.cpu(), ((h + h.T) / 2).cpu(), (q.T @ probes.T).cpu(), (images @ probes.T).cpu(), whole.cpu()
        )
        groups = min(m, _GROUPS)
        without = [parts.without(slice(g, None, groups)).trace() for g in range(groups)]
        found = Estimate.jackknife(parts.trace(), without, samples=m, products=products, rtol=rtol, method="xtrace")
        if found.converged or products >= max_products or m >= n:
            return found


@dataclass(frozen=True)
class _Sketch:
    """What XTrace knows of m probes, in the coordinates of an orthonormal basis Q of their images.

    Attributes:
        r: The images, ``(k, m)``: H·probes = Q·r.
        h: QᵀHQ, ``(k, k)``.
        w: The probes within the range, Qᵀ·probes, ``(k, m)``.
        t: QᵀH·probes, ``(k, m)``.
        whole: probeᵀH·probe, ``(m,)``.
    """

    r: Tensor
    h: Tensor
    w: Tensor
    t: Tensor
    whole: Tensor

    def without(self, some: slice) -> _Sketch:
        """The same of fewer probes, whose images span less."""
        keep = torch.ones(self.r.shape[1], dtype=torch.bool)
        keep[some] = False
        z, r = torch.linalg.qr(self.r[:, keep])
        return _Sketch(r, z.T @ self.h @ z, z.T @ self.w[:, keep], z.T @ self.t[:, keep], self.whole[keep])

    def trace(self) -> float:
        """The mean over the probes of the trace in the range of the others, and the probe's sample of the rest."""
        s = torch.linalg.inv(self.r).T
        s = s / torch.linalg.vector_norm(s, dim=0)
        inside = self.h.trace() - (s * (self.h @ s)).sum(0)
        g = self.w - s * (s * self.w).sum(0)  # the probe's part within the reduced range
        rest = self.whole - 2 * (g * self.t).sum(0) + (g * (self.h @ g)).sum(0)
        return float((inside + rest).mean())


def _fresh_direction(vector: Tensor, basis: Tensor) -> Tensor | None:
    """The unit vector of what ``vector`` holds beyond the rows of ``basis``; None if that is rounding noise."""
    rest = vector
    for _ in range(2):
        rest = rest - basis.T @ (basis @ rest)
    norm = float(torch.linalg.vector_norm(rest))
    return rest / norm if norm > 1e-10 * float(torch.linalg.vector_norm(vector)) else None


TRACE_METHODS: dict[str, Callable[..., Estimate]] = {"hutch++": hutch_pp, "xtrace": xtrace}
