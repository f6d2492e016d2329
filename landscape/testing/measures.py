"""What every measure has to keep."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..measures.engine.measurement import Measure, Measurement
from ..problem.problem import Problem
from ..runtime.random_state import preserved_random_state, seed_everything
from ..specs import SharpnessSpec
from .requiring import require


def check_measure(measure: Measure, spec: SharpnessSpec | None = None) -> None:
    """Try a measure on a small ReLU network in float64.

    Checked: it gives at least one `Measurement`, finite or None; the same for the same seed; the same whatever the
    micro-batches, to 1e-9; weights, gradients, modes and the global random numbers are as before.

    Args:
        measure: ``(problem, spec, seed)`` to measurements.
        spec: What it is told; the defaults if None.

    Raises:
        AssertionError: Naming what does not hold.

    Example:
        >>> from landscape.measures.engine.measurement import Measurement
        >>> from landscape.testing import check_measure
        >>> check_measure(lambda problem, spec, seed: [Measurement(value=float(problem.weights.norm()))])
    """
    spec = spec or SharpnessSpec()
    with preserved_random_state():
        seed_everything(0, "check_measure")
        model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        data = (torch.randn(24, 5, dtype=torch.float64), torch.arange(24) % 3)
        whole, pieces = (Problem(model, data, "cross_entropy", batch_size=size) for size in (24, 7))
        before = [p.detach().clone() for p in whole.model.parameters()]
        state = torch.get_rng_state().clone()
        first = _values(measure, whole, spec)
        require(torch.equal(state, torch.get_rng_state()), "it moves torch's global random numbers")
        kept = all(torch.equal(a, b) for a, b in zip(before, whole.model.parameters(), strict=True))
        require(kept, "it leaves other weights behind")
        require(all(p.grad is None for p in whole.model.parameters()), "it leaves gradients behind")
        require(not whole.model.training, "it leaves another mode behind")
        require(_close(first, _values(measure, whole, spec), 0.0), "with the same seed it answers otherwise")
        require(_close(first, _values(measure, pieces, spec), 1e-9), "it depends on the size of the micro-batches")


def _values(measure: Measure, problem: Problem, spec: SharpnessSpec) -> list[float | None]:
    found = list(measure(problem, spec, 0))
    require(bool(found), "it gives nothing")
    require(all(isinstance(v, Measurement) for v in found), "it gives something else than a Measurement")
    values = [v.value for v in found]
    require(all(v is None or math.isfinite(v) for v in values), f"it gives {values}")
    return values


def _close(a: list[float | None], b: list[float | None], rel: float) -> bool:
    return len(a) == len(b) and all(
        x == y or (x is not None and y is not None and math.isclose(x, y, rel_tol=rel, abs_tol=rel))
        for x, y in zip(a, b, strict=True)
    )
