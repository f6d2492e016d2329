"""Trace, diagonal and Frobenius norm of a symmetric operator from random vectors, each with its standard error.

A probe is a vector v of random signs and its product Hv. vᵀHv estimates the trace (Hutchinson 1990), v ⊙ Hv the
diagonal (Bekas et al. 2007), ‖Hv‖² the squared Frobenius norm. With known eigenpairs (Λ, V), B = VΛVᵀ is taken out
first, exactly: tr H = tr B + E[vᵀ(H−B)v], and likewise the others. That is unbiased for any V that does not depend
on v, and few large eigenvalues make most of the variance.

Sampling ends when the standard error is small enough. It never ends because a running mean has settled, which it
does whatever its error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..progress import report
from .krylov import Multiply
from .lanczos import rademacher

LEAST_PROBES = 10


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        estimate: The value.
        stderr: Standard error (ddof 1); 0 if it is exact.
        interval: 95 % confidence interval, from Student's t.
        samples: Independent samples in it.
        products: Products that it took beyond what was known.
        converged: Whether the standard error reached what was asked.
        method: How it was made.
    """

    estimate: float
    stderr: float
    interval: tuple[float, float]
    samples: int
    products: int
    converged: bool
    method: str

    @classmethod
    def of(cls, samples: Any, *, products: int, rtol: float, method: str, offset: float = 0.0) -> Estimate:
        """From independent samples, added to ``offset``."""
        values = np.asarray(samples, dtype=float)
        mean = offset + float(values.mean())
        stderr = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")
        half = _student(len(values) - 1) * stderr if len(values) > 1 else float("inf")
        reached = len(values) > 1 and stderr <= rtol * abs(mean)
        return cls(mean, stderr, (mean - half, mean + half), len(values), products, reached, method)

    @classmethod
    def exact(cls, value: float, products: int) -> Estimate:
        """A value without error."""
        return cls(value, 0.0, (value, value), products, products, True, "exact")

    def record(self) -> dict[str, Any]:
        """For the record."""
        return {
            "estimate": self.estimate,
            "stderr": self.stderr,
            "interval": list(self.interval),
            "samples": self.samples,
            "hvp_count": self.products,
            "converged": self.converged,
            "method": self.method,
        }


def _student(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


class Probes:
    """Vectors of random signs and their products, each product made once and only when it is asked for.

    Probe ``i`` of a seed is the same vector in every run and on every device.
    """

    def __init__(self, operator: Multiply, n: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.operator, self.n, self.seed, self.device = operator, n, seed, device
        self.made = 0
        self._products: dict[int, Tensor] = {}

    def vector(self, index: int) -> Tensor:
        """Probe ``index``, ``(n,)``, float64."""
        return rademacher(self.n, self.seed, index).to(self.device)

    def product(self, index: int, *, keep: bool = False) -> Tensor:
        """The product with probe ``index``, ``(n,)``, float64."""
        if index in self._products:
            return self._products[index]
        self.made += 1
        found = self.operator(self.vector(index)).to(self.device, torch.float64)
        if keep:
            self._products[index] = found
        return found


@dataclass(frozen=True)
class Known:
    """Eigenpairs that are known: Rayleigh quotients ``(k,)`` and orthonormal rows ``(k, n)``."""

    values: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class Sampled:
    """What probes tell.

    Attributes:
        trace: The trace.
        frobenius: The Frobenius norm; its standard error is that of the square, carried over.
        diagonal: ``(n,)``, or None.
        diagonal_stderr: ``(n,)``, or None.
    """

    trace: Estimate
    frobenius: Estimate
    diagonal: Tensor | None
    diagonal_stderr: Tensor | None


def sample(
    probes: Probes,
    *,
    rtol: float,
    first: int = 0,
    known: Known | None = None,
    diagonal: bool = False,
    max_probes: int = 1000,
) -> Sampled:
    """Draw probes until the standard error of the trace is at most ``rtol`` of it, and at least ten.

    If as many probes would be needed as there are rows, the unit vectors give everything exactly.

    Args:
        probes: The probes; those whose product was made before cost nothing.
        rtol: Relative standard error of the trace at which to stop.
        first: First probe to use; earlier ones may have shaped ``known``.
        known: Eigenpairs to take out, independent of the probes from ``first`` on.
        diagonal: Estimate the diagonal, too.
        max_probes: Most probes; the result then says that it did not converge.
    """
    before = probes.made
    n = probes.n
    lam = None if known is None else known.values.to(probes.device, torch.float64)
    basis = None if known is None else known.vectors
    traces: list[float] = []
    squares: list[float] = []
    total = square = None
    trace_known = 0.0 if lam is None else float(lam.sum())
    square_known = 0.0 if lam is None else float(lam.square().sum())
    while True:
        index = first + len(traces)
        v, image = probes.vector(index), probes.product(index)
        if basis is not None and lam is not None:
            image = image - ((lam * (basis @ v))[None] @ basis)[0]
        entry = v * image
        numbers = torch.stack([entry.sum(), image.square().sum()]).tolist()
        traces.append(numbers[0])
        squares.append(numbers[1])
        if diagonal:
            total = entry if total is None else total + entry
            square = entry.square() if square is None else square + entry.square()
        spent = probes.made - before
        trace = Estimate.of(traces, products=spent, rtol=rtol, method=_method(known), offset=trace_known)
        report("trace", len(traces), None, f"standard error {trace.stderr / (abs(trace.estimate) or 1):.1%}")
        enough = len(traces) >= LEAST_PROBES
        if enough and (trace.converged or len(traces) >= max_probes):
            break
        if len(traces) >= n and enough:
            return _exactly(probes, spent, diagonal=diagonal)
    norm = Estimate.of(squares, products=spent, rtol=rtol, method=_method(known), offset=square_known)
    table = spread = None
    if total is not None and square is not None:
        k = len(traces)
        mean = total / k
        spread = ((square / k - mean.square()).clamp_min(0) / (k - 1)).sqrt()
        table = mean if basis is None or lam is None else mean + (lam[:, None] * basis.square()).sum(0)
    return Sampled(trace, _root(norm), table, spread)


def _method(known: Known | None) -> str:
    return "hutchinson" if known is None else f"hutchinson beside {len(known.values)} eigenpairs"


def _root(squared: Estimate) -> Estimate:
    root = float(np.sqrt(max(squared.estimate, 0)))
    ends = tuple(float(np.sqrt(max(e, 0))) for e in squared.interval)
    stderr = squared.stderr / (2 * root) if root > 0 else 0.0
    return Estimate(
        root, stderr, (ends[0], ends[1]), squared.samples, squared.products, squared.converged, squared.method
    )


def _exactly(probes: Probes, spent: int, *, diagonal: bool) -> Sampled:
    entries, squares = [], []
    for i in range(probes.n):
        unit = torch.zeros(probes.n, dtype=torch.float64, device=probes.device)
        unit[i] = 1
        image = probes.operator(unit).to(probes.device, torch.float64)
        probes.made += 1
        entries.append(image[i])
        squares.append(image.square().sum())
    table = torch.stack(entries)
    spent += probes.n
    trace = Estimate.exact(float(table.sum()), spent)
    norm = Estimate.exact(float(torch.stack(squares).sum().sqrt()), spent)
    return Sampled(trace, norm, table if diagonal else None, torch.zeros_like(table) if diagonal else None)


# -- other trace estimators ------------------------------------------------------------------------------------------


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
        for _ in range(max(LEAST_PROBES, k // 2)):  # grow by half
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

    Each of m sketch vectors in turn is left out of the range and used as the probe of the rest; the spread of these
    m exchangeable estimates gives the error estimate of their section 2.3.

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
    while True:
        more = min(max(LEAST_PROBES, len(probes) // 2), n - len(probes))
        new = torch.stack([rademacher(n, seed, len(probes) + i).to(device) for i in range(more)])
        probes = torch.cat([probes, new])
        sketch = torch.cat([sketch, torch.stack([operator(v).to(device, torch.float64) for v in new])])
        q, r = torch.linalg.qr(sketch.T)
        images = torch.stack([operator(row).to(device, torch.float64) for row in q.T])
        products += more + len(q.T)
        m = len(probes)
        h = images @ q
        h = (h + h.T) / 2
        # Leaving sketch i out of the range removes the direction s_i: the normalised i-th column of R^-T.
        weak = r.diagonal().abs().min() <= 1e-12 * r.diagonal().abs().max()
        if bool(weak):  # the range is the whole image of the operator: nothing is left to sample
            value = float(h.trace())
            return Estimate(value, 0.0, (value, value), m, products, True, "xtrace")
        s = torch.linalg.inv(r).T
        s = s / torch.linalg.vector_norm(s, dim=0)
        w = q.T @ probes.T  # probes in the range
        t = images @ probes.T  # qᵀH probes
        estimates = []
        for i in range(m):
            si, wi, ti = s[:, i], w[:, i], t[:, i]
            inside = h.trace() - si @ h @ si
            g = wi - si * (si @ wi)  # the probe's part within the reduced range
            whole = probes[i] @ sketch[i]
            rest = whole - 2 * (g @ ti) + g @ h @ g
            estimates.append(float(inside + rest))
        values = np.array(estimates)
        stderr = float(values.std(ddof=1) / np.sqrt(m))
        mean = float(values.mean())
        half = _student(m - 1) * stderr
        reached = stderr <= rtol * abs(mean)
        if reached or products >= max_products or m >= n:
            return Estimate(mean, stderr, (mean - half, mean + half), m, products, reached, "xtrace")


def _fresh_direction(vector: Tensor, basis: Tensor) -> Tensor | None:
    """The unit vector of what ``vector`` holds beyond the rows of ``basis``; None if that is rounding noise."""
    rest = vector
    for _ in range(2):
        rest = rest - basis.T @ (basis @ rest)
    norm = float(torch.linalg.vector_norm(rest))
    return rest / norm if norm > 1e-10 * float(torch.linalg.vector_norm(vector)) else None


TRACE_METHODS: dict[str, Callable[..., Estimate]] = {"hutch++": hutch_pp, "xtrace": xtrace}
