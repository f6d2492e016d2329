"""Curvature matrices of the form (1/N) Σ Jᵀ B J: J the Jacobian of the outputs, B positive semidefinite on them.

- generalised Gauss-Newton: B is the Hessian of the loss with respect to the outputs (Schraudolph 2002);
- Fisher, type 2: B = E[s sᵀ] over labels drawn from the network's own prediction, s the slope of the loss at the
  outputs; for softmax, logistic and Gaussian likelihoods this is the generalised Gauss-Newton (Martens 2020,
  arXiv 1412.1193, section 9);
- Fisher, Monte-Carlo: the same with drawn labels;
- empirical Fisher: B = s sᵀ with the given labels (Kunstner et al. 2019, arXiv 1905.12558, Eq. 3), so that the
  matrix is the second moment of the gradients of examples, or of their single predictions, weighted as the loss
  weighs them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UsageError
from ..data.examples import Batch
from ..data.loss_values import batch_weight, example_weights, mean_loss, prediction_weights
from ..data.losses import IGNORED, LossFunction, class_numbers
from ..numerics.tensors import as_real
from ..problem.problem import Problem
from ..problem.products import Apply, zero
from ..problem.weighted_losses import WeightedLosses
from ..runtime.devices import sent, widest
from .likelihoods import Likelihood, likelihood_of, require_natural_parts
from .outputs import Outputs, outputs_of

Tangents = list[Tensor]
Factor = Callable[[Problem, Batch, int, Outputs], Callable[[Tangents], Tangents]]
"""From a batch, the place of its first example and its outputs to B: a map from output to output tangents, one for
each output.

Complex outputs are two real ones each: their tangents have a last dimension of 2."""

_CLASSES_LAST = ("token_cross_entropy", "causal_lm")


def gauss_newton_of_batch(factor: Factor) -> Callable[[Problem, Batch, int], Apply]:
    """What `Products` sums: JᵀBJ of a batch, by two walks through one kept graph.

    Jv is read off the graph of u ↦ Jᵀu, which is linear in u, so that no forward-mode rule is needed.
    """

    def build(problem: Problem, batch: Batch, first_example: int) -> Apply:
        space = problem.space
        with problem.twice_differentiable():
            outputs = outputs_of(problem, batch, by_parts=factor is loss_hessian)
            real = [as_real(t) for t in outputs.tensors]
        for output in real:
            problem.check_custom_autograd_functions(output)
        if not real:
            return zero(problem)
        u = [torch.zeros_like(output, requires_grad=True) for output in real]
        pulled = torch.autograd.grad(real, space.tensors, u, create_graph=True, allow_unused=True)
        live = [i for i, g in enumerate(pulled) if g is not None and g.requires_grad]
        if not live:
            return zero(problem)
        b = factor(problem, batch, first_example, outputs)

        def apply(parts: Sequence[Tensor], again: bool) -> Tensor:
            ends = [pulled[i] for i in live]
            along = [parts[i] for i in live]
            pushed = torch.autograd.grad(ends, u, along, retain_graph=True, allow_unused=True)
            tangents = [torch.zeros_like(o) if t is None else t for o, t in zip(real, pushed, strict=True)]
            back = [t * 0 for t in tangents] if batch.idle else b(tangents)
            found = torch.autograd.grad(real, space.tensors, back, retain_graph=again, allow_unused=True)
            return space.flatten(found)

        return apply

    return build


def loss_hessian(problem: Problem, batch: Batch, first_example: int, outputs: Outputs) -> Callable[[Any], Any]:
    """B of the generalised Gauss-Newton matrix: the Hessian of the batch's summed loss at its outputs."""
    leaves, slopes = slopes_of(outputs, graph=True)
    alive = [s for s in slopes if s.requires_grad]
    whole = 1.0 if problem.loss_over == "example" else 1 / float(batch_weight(problem.loss_function, batch.targets))

    def apply(tangents: Tangents) -> Tangents:
        if not alive:  # a loss that is piecewise linear in the outputs
            return [torch.zeros_like(t) for t in tangents]
        along = [t for t, s in zip(tangents, slopes, strict=True) if s.requires_grad]
        found = torch.autograd.grad(alive, leaves, along, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(t) if f is None else f * whole for f, t in zip(found, tangents, strict=True)]

    return apply


def _one(function: Callable[[Problem, Batch, int, Tensor], Callable[[Tensor], Tensor]]) -> Factor:
    """A factor of networks with one output."""

    def factor(problem: Problem, batch: Batch, first_example: int, outputs: Outputs) -> Callable[[Any], Any]:
        b = function(problem, batch, first_example, outputs.only().detach())
        return lambda tangents: [b(tangents[0])]

    return factor


def label_slopes(unit: str) -> Factor:
    """B of the empirical Fisher, (1/Σw) Σ w g gᵀ over examples or over their single predictions.

    The slope of the summed loss is w·s with s that of the loss of one unit, so that w·s sᵀ is its square over w.
    """
    return _of_predictions if unit == "prediction" else _of_examples


def _of_examples(problem: Problem, batch: Batch, first_example: int, outputs: Outputs) -> Callable[[Any], Any]:
    slopes = slopes_of(outputs)[1]
    weights = example_weights(problem.loss_function, batch.targets)
    if weights is not None:
        shares = widest(weights).sqrt()  # weights may be numbers of a lower precision than the slopes
        shares = shares.where(shares > 0, 1)
        slopes = [s / shares.to(s).view(-1, *[1] * (s.ndim - 1)) for s in slopes]

    def apply(tangents: Tangents) -> Tangents:
        share = torch.stack([(s * t).reshape(len(s), -1).sum(1) for s, t in zip(slopes, tangents, strict=True)]).sum(
            0
        )
        return [s * share.view(-1, *[1] * (s.ndim - 1)) for s in slopes]

    return apply


def _of_predictions(problem: Problem, batch: Batch, first_example: int, outputs: Outputs) -> Callable[[Any], Any]:
    """Predictions of one example share weights of the network, but not outputs: B has a block for each of them.

    Raises:
        UsageError: If the loss does not say what each prediction weighs.
    """
    loss = problem.loss_function
    output = outputs.only().detach()
    if output.ndim <= 2:  # one prediction each, of all outputs
        return _of_examples(problem, batch, first_example, outputs)
    name = getattr(loss, "__name__", type(loss).__name__)
    places = prediction_weights(loss, batch.targets)
    if places is None:
        fix = "use `unit='example'`, or a cross-entropy with one class per place"
        raise UsageError("it does not say what each prediction weighs", name, fix)
    slope = _slope(loss, output, batch.targets)
    dim = slope.ndim - 1 if name in _CLASSES_LAST else 1
    weights = places.to(slope).unsqueeze(dim)
    scale = weights.where(weights > 0, 1)
    return lambda tangents: [slope * ((slope * tangents[0]).sum(dim, keepdim=True) / scale)]


def fisher(problem: Problem) -> Factor:
    """B of the type-2 Fisher matrix.

    Raises:
        UsageError: If the loss is no likelihood that is known here.
    """
    if isinstance(problem.loss_function, WeightedLosses):
        require_natural_parts(problem.loss_function)
        return loss_hessian
    likelihood = likelihood_of(problem)
    if likelihood.name == "nll":
        return _one(functools.partial(_nll_fisher, likelihood))
    return loss_hessian


def sampled_fisher(problem: Problem, seed: int, samples: int) -> Factor:
    """B of the Monte-Carlo Fisher matrix: the mean of s sᵀ over ``samples`` label sets drawn from the prediction.

    Draws belong to examples, not to batches, so that micro-batches change nothing.

    Raises:
        UsageError: If the loss is no likelihood that is known here.
    """
    likelihood = likelihood_of(problem)
    name = likelihood.name
    drawn: list[Any] = []

    def factor(problem: Problem, batch: Batch, first_example: int, output: Tensor) -> Callable[[Tensor], Tensor]:
        if not drawn:
            shape = (samples, problem.n_examples, *_draws_shape(name, output))
            generator = np.random.default_rng([seed, 0xF15])
            drawn.append(generator.standard_normal(shape) if name == "mse" else generator.random(shape))
        slopes = []
        for table in drawn[0]:
            like = as_real(output)
            numbers = sent(
                torch.from_numpy(table[first_example : first_example + len(batch)]), like.device, like.dtype
            )
            target, scale = _drawn_target(likelihood, output, batch.targets, numbers)
            slopes.append(_slope(likelihood.loss, output, target) * (scale / samples**0.5))
        return _outer(slopes)

    return _one(factor)


def slopes_of(
    outputs: Outputs, at: Sequence[Tensor] | None = None, *, graph: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, as real numbers, as leaves, and the slopes of the summed loss there, or at other values."""
    values = [as_real(t.detach()) for t in outputs.tensors] if at is None else at
    leaves = [z.detach().requires_grad_() for z in values]
    with torch.enable_grad():
        kinds = [t.is_complex() for t in outputs.tensors]
        seen = [torch.view_as_complex(z) if c else z for z, c in zip(leaves, kinds, strict=True)]
        total = outputs.total(seen)
        found: Any = [None] * len(leaves)
        if total.requires_grad:
            found = torch.autograd.grad(total, leaves, create_graph=graph, allow_unused=True)
    return leaves, [torch.zeros_like(z) if s is None else s for z, s in zip(leaves, found, strict=True)]


def _slope(loss: LossFunction, output: Tensor, target: object) -> Tensor:
    """The slope of the summed loss of one output at other targets, ``(n, ...)``."""
    weight = batch_weight(loss, target)
    return slopes_of(Outputs([output], lambda values: mean_loss(loss, values[0], target) * weight))[1][0]


def _outer(slopes: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    def apply(tangent: Tensor) -> Tensor:
        total = torch.zeros_like(tangent)
        for s in slopes:
            share = (s * tangent).reshape(len(s), -1).sum(1)
            total = total + s * share.view(-1, *[1] * (s.ndim - 1))
        return total

    return apply


def _nll_fisher(
    likelihood: Likelihood, problem: Problem, batch: Batch, first_example: int, output: Tensor
) -> Callable[[Tensor], Tensor]:
    """With log-probabilities as outputs s = −e_y, so that B = diag(p), at the positions that count."""
    counted = (class_numbers(output, batch.targets) != likelihood.ignored).unsqueeze(1)
    weight = output.exp() * counted
    return lambda tangent: weight * tangent


def _draws_shape(name: str, output: Tensor) -> tuple[int, ...]:
    """One number per label to draw."""
    if name in _CLASSES_LAST:
        return tuple(output.shape[1:-1])
    if name in ("cross_entropy", "nll"):
        return tuple(output.shape[2:])
    return tuple(as_real(output).shape[1:])


def _drawn_target(likelihood: Likelihood, output: Tensor, target: Tensor, numbers: Tensor) -> tuple[Tensor, float]:
    """Labels drawn from the prediction, and what the slope of the mean over an example's outputs is scaled by."""
    name, outputs = likelihood.name, output[0].numel()
    if name == "mse":  # mean over d outputs of squared errors: a Gaussian of variance d/2 for each real number
        numbers = torch.view_as_complex(numbers) if output.is_complex() else numbers
        return output + numbers * (outputs / 2) ** 0.5, 1.0
    if name == "bce_with_logits":
        return (numbers < output.sigmoid()).to(output.dtype), outputs**0.5
    dim = -1 if name in _CLASSES_LAST else 1
    below = widest(output).softmax(dim).cumsum(dim) < widest(numbers).unsqueeze(dim)
    labels = below.sum(dim).clamp(max=output.shape[dim] - 1)
    if name == "causal_lm":  # the prediction at one place is for the next
        labels = torch.cat([target[:, :1], labels[:, :-1]], 1)
    if target.is_floating_point():  # soft targets: classes all the same
        return labels, 1.0
    if dim == 1:
        target = class_numbers(output, target)
    return torch.where(target.long() == likelihood.ignored, IGNORED, labels), 1.0
