"""Relative flatness (Petzka et al. 2021, arXiv 2001.00939), layer by layer.

    kappa = Σ_{s,s'} ⟨w_s, w_s'⟩ Tr(H_{s,s'}),   H_{s,s'} = ∂²L/∂w_s∂w_s',

w_s the rows of a layer's weight matrix (output channels; biases left out; a complex number is two real ones). With
W = Σ_r a_r b_rᵀ (b orthonormal) it is Σ_r Σ_j vec(a_r e_jᵀ)ᵀ H vec(a_r e_jᵀ), one product per rank and column. Where
these are many, random signs z and u give the unbiased estimate vec(Wu zᵀ)ᵀ H vec(Wu zᵀ). The estimate, too, is
constant under rescaling.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..base.progress import report
from ..numerics.intervals import mean_and_stderr
from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import SharpnessSpec
from .engine.measurement import Measurement
from .engine.noise import signs


def relative_flatness(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """Kappa of every layer whose weight is a matrix or a filter bank; exact, or over ``draws`` (100) probes."""
    parts = zip(problem.space.named(problem.weights).items(), problem.space.dimensions, strict=True)
    layers = {name: weight for (name, weight), dimensions in parts if dimensions >= 2}
    if not layers:
        raise UsageError("no layer has a weight matrix", "`measure='relative-flatness'`", "choose another measure")
    probes = spec.draws or 100
    for i, (name, weight) in enumerate(layers.items()):
        rows = weight.flatten(1)
        left = _left_factor(rows)
        if left.shape[1] * rows.shape[1] <= probes:
            columns = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
            total = sum(_quadratic(problem, name, torch.outer(a, e)) for a in left.T for e in columns)
            yield Measurement(value=float(total), facts={"layer": name, "estimator": "exact"})
        else:
            values = []
            for k in range(probes):
                u = signs(rows.shape[1], seed, f"{name} mix", k).to(rows)
                z = signs(rows.shape[1], seed, f"{name} column", k).to(rows)
                values.append(_quadratic(problem, name, torch.outer(rows @ u, z)))
                report(f"relative flatness of {name}", k + 1, probes)
            value, stderr = mean_and_stderr(values)
            facts = {"layer": name, "estimator": "Hutchinson"}
            yield Measurement(value=value, stderr=stderr, n_blocks=probes, facts=facts)
        report("relative flatness", i + 1, len(layers))


def _left_factor(rows: Tensor) -> Tensor:
    """A with A Aᵀ = W Wᵀ and as few columns as W has rank, ``(outputs, rank)``."""
    u, s, _ = torch.linalg.svd(wide(rows), full_matrices=False)
    kept = s > s.max() * max(rows.shape) * torch.finfo(rows.dtype).eps
    factor: Tensor = (u[:, kept] * s[kept]).to(rows.dtype)
    return factor


def _quadratic(problem: Problem, name: str, direction: Tensor) -> float:
    """vᵀHv for a ``direction`` in one layer, given as its weight matrix."""
    vector = problem.space.flatten(
        [
            direction.reshape(shape) if k == name else None
            for k, shape in zip(problem.space.names, problem.space.shapes, strict=True)
        ]
    )
    return float(wide(vector) @ wide(problem.hvp(vector)))
