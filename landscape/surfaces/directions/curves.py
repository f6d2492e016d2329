"""Curves of low loss between two minima: one bend, trained by gradient descent (arXiv 1802.10026).

A quadratic Bezier curve φ(t) = (1−t)²a + 2t(1−t)c + t²b, or a polygonal chain a → c → b. The bend c minimises the
mean of L(φ(t)) over t uniform in [0, 1]: every step draws one t and one batch, and the chain rule gives
∂L/∂c = ∂φ/∂c · ∇L(φ(t)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...base.errors import NumericalError
from ...base.progress import report
from ...problem.problem import Problem
from ...runtime.distributed import no_sharding
from ...specs import PathSpec
from ..evaluate.batchnorm import batchnorm_layers, preserved_statistics

_MOMENTUM = 0.9


def point_on(kind: str, t: float, a: Sequence[Tensor], b: Sequence[Tensor], bend: Sequence[Tensor]) -> list[Tensor]:
    """φ(t), bit-equal to a at t = 0 and to b at t = 1."""
    if kind == "line":
        return list(torch._foreach_lerp(list(a), list(b), t))
    if kind == "polychain":
        first, second, s = (a, bend, 2 * t) if t <= 0.5 else (bend, b, 2 * t - 1)
        return list(torch._foreach_lerp(list(first), list(second), s))
    left = torch._foreach_lerp(list(a), list(bend), t)  # de Casteljau
    right = torch._foreach_lerp(list(bend), list(b), t)
    return list(torch._foreach_lerp(left, right, t))


def share_of_bend(kind: str, t: float) -> float:
    """∂φ/∂c, a number: how far φ(t) follows the bend."""
    return 2 * t * (1 - t) if kind == "bezier" else 2 * min(t, 1 - t)


def train_bend(
    training: Problem, a: Sequence[Tensor], b: Sequence[Tensor], spec: PathSpec, seed: int
) -> tuple[list[Tensor], list[float]]:
    """Train the bend of a curve by SGD with momentum 0.9 and a cosine schedule, from the middle of the line.

    BatchNorm layers use the statistics of each batch meanwhile; the problem's weights and statistics are put back.

    Args:
        training: The network with its training examples.
        a: Weights at t = 0.
        b: Weights at t = 1.
        spec: Kind of curve, steps, learning rate, examples per step.
        seed: Of batches and of t.

    Returns:
        The bend, and the loss of every step (of one batch, at one t).

    Raises:
        NumericalError: If a loss is not finite.
    """
    generator = np.random.default_rng([seed, 0xBE2D])
    bend = list(torch._foreach_lerp(list(a), list(b), 0.5))
    velocity = [torch.zeros_like(c) for c in bend]
    n = training.n_examples
    # What is ready-made has its size already.
    size, losses = 1 if training.examples.ready_made else min(spec.train_batch, n), []
    order = generator.permutation(n)
    with preserved_statistics(training.model), training.temporary_weights() as tensors:
        for module in batchnorm_layers(training.model).values():
            module.train()
        for step in range(spec.steps):
            if len(order) < size:
                order = generator.permutation(n)
            chosen, order = order[:size], order[size:]
            t = float(generator.random())
            torch._foreach_copy_(tensors, point_on(spec.kind, t, a, b, bend))
            batch = training.examples.batch(np.sort(chosen)).to(training.device, training.dtype)
            with torch.enable_grad(), no_sharding():  # every process sees the same batch
                loss = training.batch_loss(batch)
                gradient = training.space.flatten(
                    torch.autograd.grad(loss, training.space.tensors, allow_unused=True)
                )
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                what = f"the loss of the curve is {losses[-1]} at step {step + 1}"
                raise NumericalError(what, f"`kind={spec.kind!r}`", "lower `lr=`")
            rate = spec.lr * 0.5 * (1 + math.cos(math.pi * step / spec.steps))
            share = share_of_bend(spec.kind, t)
            for c, v, g in zip(bend, velocity, training.space.split(gradient), strict=True):
                v.mul_(_MOMENTUM).add_(g, alpha=share)
                c.sub_(v, alpha=rate)
            report("curve", step + 1, spec.steps)
    return bend, losses
