"""Losses per example, and how a user's loss is understood.

The loss of a set of examples is always the *mean over its examples*. A user's callable may return the losses
of the examples, shape ``(n,)`` or ``(n, ...)`` (averaged over the rest), or their mean, shape ``()``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import DataError

LossFunction = Callable[[Tensor, Tensor], Tensor]


def _per_example(values: Tensor) -> Tensor:
    return values if values.ndim <= 1 else values.flatten(1).mean(1)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy of logits ``(n, C, ...)`` and integer targets ``(n, ...)``; returns ``(n,)``."""
    return _per_example(F.cross_entropy(output, target, reduction="none"))


def nll(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of log-probabilities ``(n, C, ...)``; returns ``(n,)``."""
    return _per_example(F.nll_loss(output, target, reduction="none"))


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Squared error, mean over the outputs of each example; returns ``(n,)``."""
    return _per_example((output - _like(output, target)).square())


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Absolute error, mean over the outputs of each example; returns ``(n,)``."""
    return _per_example((output - _like(output, target)).abs())


def huber(output: Tensor, target: Tensor) -> Tensor:
    """Huber error with delta 1, mean over the outputs of each example; returns ``(n,)``."""
    return _per_example(F.huber_loss(output, _like(output, target), reduction="none"))


def bce_with_logits(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of logits and targets in [0, 1], mean over the outputs; returns ``(n,)``."""
    target = _like(output, target).to(output.dtype)
    return _per_example(F.binary_cross_entropy_with_logits(output, target, reduction="none"))


def _like(output: Tensor, target: Tensor) -> Tensor:
    """Targets in the output's shape; ``(n,)`` beside ``(n, 1)`` would otherwise broadcast to ``(n, n)``."""
    if target.shape == output.shape:
        return target
    if target.numel() == output.numel():
        return target.reshape(output.shape)
    raise DataError(
        f"outputs have shape {tuple(output.shape)}, targets {tuple(target.shape)}",
        "the loss",
        "make the model's outputs and the targets of equal size",
    )


def example_losses(loss: LossFunction, output: Tensor, target: Tensor) -> Tensor | None:
    """Losses of the examples ``(n,)``, or None if ``loss`` gives only their mean.

    Raises:
        DataError: If a target is out of range, or the result has another length.
    """
    values = _call(loss, output, target)
    return None if values.ndim == 0 else _per_example(values)


def mean_loss(loss: LossFunction, output: Tensor, target: Tensor) -> Tensor:
    """Mean loss over the examples, shape ``()``."""
    values = _call(loss, output, target)
    return values if values.ndim == 0 else _per_example(values).mean()


def _call(loss: LossFunction, output: Tensor, target: Tensor) -> Tensor:
    try:
        values = loss(output, target)
    except IndexError as error:  # torch: "Target 7 is out of bounds."
        classes = output.shape[1] if output.ndim > 1 else 0
        raise DataError(
            f"a label is outside 0..{classes - 1} ({error})", "the loss", f"the model has {classes} outputs"
        ) from error
    if not isinstance(values, Tensor) or (values.ndim and values.shape[0] != target.shape[0]):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise DataError(
            f"the loss returned {got} for {target.shape[0]} examples",
            getattr(loss, "__name__", "loss"),
            "return one loss per example, shape (n,), or their mean, shape ()",
        )
    return values


def domain_means(
    loss: LossFunction,
    output: Tensor,
    target: Tensor,
    domain: Tensor,
    values: Tensor | None,
    present: list[int],
) -> Tensor:
    """Mean loss of each domain in ``present``, shape ``(len(present),)``, with its graph.

    Args:
        loss: Called once per domain, on the domain's slice, when it gives no per-example losses.
        output: Outputs of the model, examples first.
        target: Targets, examples first.
        domain: Domain index of each example, shape ``(n,)``.
        values: Per-example losses ``(n,)`` from `example_losses`, or None.
        present: Indices of the domains to return, each with at least one example.
    """
    if values is not None:
        return torch.stack([values[domain == i].mean() for i in present])
    return torch.stack([mean_loss(loss, output[domain == i], target[domain == i]) for i in present])


def correct(output: Tensor, target: Tensor) -> Tensor | None:
    """Which examples are classified correctly, as numbers ``(n,)``; None if this is no classification."""
    if output.ndim < 2 or target.is_floating_point() or target.shape != output.shape[:1] + output.shape[2:]:
        return None
    return _per_example((output.argmax(1) == target).double())
