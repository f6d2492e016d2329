"""Trace, diagonal and Frobenius norm of a symmetric operator from random signs, each with its standard error.

A probe is a vector v of random signs and its product Hv. vᵀHv estimates the trace (Hutchinson 1990), v ⊙ Hv the
diagonal (Bekas et al. 2007), ‖Hv‖² the squared Frobenius norm. What a known `Subspace` says of H is taken out first,
exactly, and the probes estimate the rest. That is unbiased for any subspace that does not depend on the probes, and
the few large eigenvalues in it make most of the variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...base.progress import report
from ..lanczos.subspace import Subspace, nothing
from .estimates import LEAST_SAMPLES, Estimate
from .probes import Probes

_LEAST_BESIDE = 4  # samples where the large eigenvalues are known: what is left has no rare events


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
    known: Subspace | None = None,
    diagonal: bool = False,
    max_probes: int = 1000,
) -> Sampled:
    """Draw probes until the trace is known to ``rtol`` (see `estimates`): at least ten, or four beside a subspace.

    If as many probes would be needed as there are rows, the unit vectors give everything exactly.

    Args:
        probes: The probes; those whose product was made before cost nothing.
        rtol: Relative standard error of the trace at which to stop.
        first: First probe to use; earlier ones may have shaped ``known``.
        known: What to take out, independent of the probes from ``first`` on.
        diagonal: Estimate the diagonal, too.
        max_probes: Most probes; the result then says that it did not converge.
    """
    before, n = probes.made, probes.n
    least = _LEAST_BESIDE if known is not None and len(known) and not diagonal else LEAST_SAMPLES
    space = nothing(probes.draws) if known is None else known
    method = "hutchinson" if not len(space) else f"hutchinson beside {len(space)} known directions"
    traces: list[float] = []
    squares: list[float] = []
    total = square = None
    offset, squared_offset = float(space.trace()), float(space.squared_norm())
    while True:
        index = first + len(traces)
        v = probes.vector(index)
        image = space.rest_image(v, probes.product(index))
        entry = v * image
        numbers = torch.stack([entry.sum(), image.square().sum()]).tolist()
        traces.append(numbers[0])
        squares.append(numbers[1])
        if diagonal:
            total = entry if total is None else total + entry
            square = entry.square() if square is None else square + entry.square()
        spent = probes.made - before
        trace = Estimate.of(traces, products=spent, rtol=rtol, method=method, offset=offset)
        share, many = trace.stderr / (abs(trace.estimate) or 1), len(traces)
        needed = many * (share / rtol) ** 2 if many > 1 else 0.0  # a standard error falls as the root of the samples
        in_all = min(max(least, many + 1, int(min(needed, max_probes))), max_probes)
        report("trace", many, in_all if many > 1 else None, f"standard error {share:.1%}")
        enough = len(traces) >= least
        if enough and (trace.converged or len(traces) >= max_probes):
            break
        if len(traces) >= n and enough:
            return _exactly(probes, spent, diagonal=diagonal)
    norm = Estimate.of(squares, products=spent, rtol=rtol, method=method, offset=squared_offset)
    table = spread = None
    if total is not None and square is not None:
        k = len(traces)
        mean = total / k
        spread = ((square / k - mean.square()).clamp_min(0) / (k - 1)).sqrt()
        table = mean + space.diagonal()
    return Sampled(trace, _root(norm), table, spread)


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
        unit = probes.draws.unit(i)
        image = probes.operator(unit).to(probes.device, torch.float64)
        probes.made += 1
        entries.append(unit @ image)
        squares.append(image.square().sum())
    table = torch.stack(entries)
    spent += probes.n
    trace = Estimate.exact(float(table.sum()), spent)
    norm = Estimate.exact(float(torch.stack(squares).sum().sqrt()), spent)
    return Sampled(trace, norm, table if diagonal else None, torch.zeros_like(table) if diagonal else None)
