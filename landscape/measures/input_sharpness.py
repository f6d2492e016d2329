"""Sharpness with respect to the inputs: the rise when each example's input moves instead of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UsageError
from ..data.examples import Batch
from ..data.loss_values import example_losses, mean_loss
from ..numerics.intervals import mean_and_stderr
from ..numerics.trees import row_count, take_rows
from ..problem.forward import forward
from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import SharpnessSpec
from .engine.measurement import Measurement
from .engine.norm_ball import NormBall
from .engine.partition import shares


def input_sharpness(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """mean_i [max_{‖d‖_p ≤ rho·‖x_i‖_p} l_i(x_i + d) − l_i(x_i)], by one step or ``inner_steps`` projected ones.

    rho is relative to each example's own norm, so that it compares with a step of the weights of the same
    ``relative_radius``. Inputs must be one floating tensor.
    """
    del seed
    problem.require_examples("the sharpness in the inputs")
    steps = spec.inner_steps or 1
    weights = shares(problem, [np.array([i]) for i in range(problem.n_examples)])
    for rho in spec.rho or (0.01,):
        rises = problem.per_example(partial(_rises, problem, NormBall(rho, spec.p), steps))
        value, stderr = mean_and_stderr(wide(rises).cpu(), weights)
        facts = {"relative_radius": rho}
        yield Measurement(
            value=value, stderr=stderr, n_blocks=problem.n_examples, rho=rho, p=spec.p, adaptive=False, facts=facts
        )


def _rises(problem: Problem, ball: NormBall, steps: int, batch: Batch) -> Tensor:
    x = batch.inputs
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise UsageError("the inputs are no single floating tensor", "`measure='input-sharpness'`", "leave it out")
    size = torch.linalg.vector_norm(x.flatten(1), ord=float(ball.p), dim=1, keepdim=True)

    def ask(d: Tensor) -> tuple[Tensor, Tensor]:
        moved = (x + (size * d).view_as(x)).detach().requires_grad_()
        with torch.enable_grad():
            values = _losses(problem, moved, batch.targets)
            gradient = None
            if values.requires_grad:
                (gradient,) = torch.autograd.grad(values.sum(), moved, allow_unused=True)
        if gradient is None:
            what = "no gradient reaches the inputs: the forward detaches, rounds or indexes by them"
            raise UsageError(what, "`measure='input-sharpness'`", "leave it out")
        return wide(values.detach()), gradient.flatten(1)

    d = torch.zeros_like(x.flatten(1))
    before, gradient = ask(d)
    d, best = ball.steepest(gradient), torch.full_like(before, -torch.inf)
    for _ in range(steps - 1):
        loss, gradient = ask(d)
        best = torch.maximum(best, loss)
        d = ball.project(d + ball.steepest(gradient, min(ball.rho, 2.5 * ball.rho / steps)))
    return torch.maximum(best, ask(d)[0]) - before


def _losses(problem: Problem, inputs: Tensor, targets: object) -> Tensor:
    output = forward(problem.model, inputs)
    values = example_losses(problem.loss_function, output, targets)
    if values is not None:
        return values
    # The loss gives only means: one example at a time.
    singles = torch.arange(row_count(targets), device=inputs.device)[:, None]
    return torch.stack(
        [mean_loss(problem.loss_function, take_rows(output, i), take_rows(targets, i)) for i in singles]
    )
