"""The Fisher-Rao norm (Liang et al. 2019, arXiv 1711.01530), with empirical labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..autograd.second_derivatives import missing_derivative
from ..base.errors import NumericalError
from ..base.progress import report
from ..data.examples import Batch, Indices
from ..data.loss_values import example_losses
from ..numerics.intervals import mean_and_stderr
from ..numerics.tensors import as_real
from ..problem.checks.substitutions import require_equal_forms
from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import SharpnessSpec
from .engine.blockwise import over_groups
from .engine.measurement import Measurement
from .engine.partition import shares


def fisher_rao(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """Mean over examples of ⟨w, ∇l_i(w)⟩², the labels being those of the data; standard error over the examples.

    An example weighs what it weighs in the mean loss, an ignored one nothing. Constant under rescaling of positively
    homogeneous layers.
    """
    del spec, seed
    problem.require_examples("the Fisher-Rao norm")
    problem.require_no_penalty("the Fisher-Rao norm", "leave one of them out")
    squares = wide(slopes(problem)).square().cpu().numpy()
    weights = shares(problem, _singles(problem))
    value, stderr = mean_and_stderr(squares, weights)
    report("Fisher-Rao norm", 1, 1)
    yield Measurement(
        value=value, stderr=stderr, n_blocks=int(np.count_nonzero(weights)), facts={"labels": "empirical"}
    )


def slopes(problem: Problem) -> Tensor:
    """⟨w, ∇l_i(w)⟩ of each example, ``(n_examples,)``: the derivative of l_i as the weights grow in proportion.

    With a weight v_i for each loss, Σ_i v_i ∇l_i is linear in v; the derivative of its product with w is what is
    sought, for all examples from two backward passes. Where the loss gives no values per example, or an operation
    cannot be differentiated twice, the gradient of each example is taken.
    """
    require_equal_forms(problem)
    parts = problem.space.split(problem.weights)

    def of(batch: Batch) -> Tensor:
        with problem.twice_differentiable():
            values = example_losses(problem.loss_function, problem.output(batch), batch.targets)
        assert values is not None
        v = torch.ones_like(values, requires_grad=True)
        first = torch.autograd.grad(values, problem.space.tensors, v, create_graph=True, allow_unused=True)
        product = [(as_real(g) * w).sum() for g, w in zip(first, parts, strict=True) if g is not None]
        (slope,) = torch.autograd.grad(torch.stack(product).sum(), v)
        return slope

    if problem.example_losses() is not None:
        try:
            with torch.enable_grad():
                return problem.per_example(of)
        except RuntimeError as error:
            if not isinstance(missing_derivative(error), NumericalError):
                raise
    singles, centre = _singles(problem), problem.weights
    counted = np.flatnonzero(shares(problem, singles))
    blocks = [singles[i] for i in counted]
    found = [v for _, v in over_groups(problem, blocks, lambda g: g.losses_and_gradients(centre[None])[1] @ centre)]
    slopes = torch.cat(found)
    return slopes.new_zeros(len(singles)).index_copy(0, torch.from_numpy(counted).to(slopes.device), slopes)


def _singles(problem: Problem) -> list[Indices]:
    return [np.array([i]) for i in range(problem.n_examples)]
