"""Eigenvalues by other tools on the same problem, each with its true residual under our operator."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UsageError
from ..data.examples import Batch
from ..data.loss_values import mean_loss
from ..problem.problem import Problem
from ..problem.with_loss import WithLoss
from ..runtime.random_state import preserved_random_state, seed_everything
from .operators import Operator


def cross_check(
    name: str, problem: Problem, operator: Operator, *, top: int, scale: float, seed: int
) -> dict[str, Any]:
    """Let another tool compute the ``top`` eigenvalues of the Hessian, at its own defaults.

    Args:
        name: ``pyhessian`` or ``curvlinops``.
        problem: What is analysed; the tool works on a copy of the network.
        operator: Our Hessian, for the residuals.
        top: How many pairs.
        scale: |λ_max|, which residuals are relative to.
        seed: Seed of the global generators, which these tools draw from.

    Returns:
        ``eigenvalues`` in the tool's order, ``residuals`` ‖Hv − λv‖ / |λ_max|, ``seconds``.

    Raises:
        UsageError: If the tool is not installed, or cannot take the model's inputs.
    """
    solve = _TOOLS[name]
    batches = list(problem.batches())
    if not all(isinstance(b.inputs, Tensor) and isinstance(b.targets, Tensor) for b in batches):
        raise UsageError(f"{name} takes models of one input tensor", f"`cross_check={name!r}`", "drop it")
    if problem.weight_decay or isinstance(problem.model, WithLoss):
        what = f"{name} knows no weight decay and no parameters of a loss"
        raise UsageError(what, f"`cross_check={name!r}`", "drop it")
    if any(p.is_complex() for p in problem.space.tensors):
        raise UsageError(f"{name} takes no complex weights for two real ones", f"`cross_check={name!r}`", "drop it")
    model = problem.twin()
    started = time.perf_counter()
    with preserved_random_state(), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # leaks and deprecations of theirs
        seed_everything(seed, "second opinion")
        values, vectors = solve(problem, model, batches, top)
    seconds = time.perf_counter() - started
    residuals = []
    for value, vector in zip(values, vectors, strict=True):
        unit = (vector / torch.linalg.vector_norm(vector)).to(operator.device, torch.float64)
        residuals.append(float(torch.linalg.vector_norm(operator(unit).double() - value * unit)) / (scale or 1.0))
    return {"eigenvalues": values, "residuals": residuals, "seconds": round(seconds, 3)}


def _criterion(problem: Problem) -> Callable[[object, object], Tensor]:
    return lambda output, target: mean_loss(problem.loss_function, output, target)


def _pyhessian(
    problem: Problem, model: torch.nn.Module, batches: list[Batch], top: int
) -> tuple[list[float], list[Tensor]]:
    """Power iteration with deflation (Yao et al. 2020, arXiv 1912.07145), at most 100 steps per pair, tol 1e-3."""
    from pyhessian import hessian

    on = problem.device if problem.device.type == "cuda" else torch.device("cpu")  # it knows no others
    model, pairs = model.to(on), [(b.inputs.to(on), b.targets.to(on)) for b in batches]
    found = hessian(model, _criterion(problem), dataloader=pairs, cuda=on.type == "cuda")
    values, vectors = found.eigenvalues(top_n=top)
    flat = [torch.cat([part.detach().reshape(-1) for part in parts]) for parts in vectors]
    return [float(v) for v in values], flat


def _curvlinops(problem: Problem, model: Any, batches: list[Batch], top: int) -> tuple[list[float], list[Tensor]]:
    """ARPACK (scipy's ``eigsh``) on curvlinops' Hessian operator, tol 1e-3."""
    try:
        from curvlinops import HessianLinearOperator
    except ImportError:
        raise UsageError(
            "curvlinops is not installed", "`cross_check='curvlinops'`", "pip install curvlinops-for-pytorch"
        ) from None
    from scipy.sparse.linalg import eigsh

    class Criterion(torch.nn.CrossEntropyLoss):  # it wants a module with a reduction
        def forward(self, output: Any, target: Any) -> Tensor:
            return mean_loss(problem.loss_function, output, target)

    parameters = [p for p in model.parameters() if p.requires_grad]
    theirs = HessianLinearOperator(model, Criterion(), parameters, [(b.inputs, b.targets) for b in batches])
    start = np.random.default_rng(0).standard_normal(problem.n_parameters)
    values, vectors = eigsh(theirs.to_scipy(), k=top, which="LA", tol=1e-3, v0=start.astype(np.float32))
    order = np.argsort(values)[::-1]
    return [float(values[i]) for i in order], [torch.from_numpy(np.array(vectors[:, i])) for i in order]


_TOOLS = {"pyhessian": _pyhessian, "curvlinops": _curvlinops}
