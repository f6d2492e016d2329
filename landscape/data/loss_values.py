"""What any loss says of a batch: losses, weights and hits of its examples, their mean, means of domains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.errors import DataError, UsageError
from ..numerics.tensors import continuous
from ..numerics.trees import leaves, row_count, take_rows
from .losses import (
    IGNORED,
    Loss,
    LossFunction,
    _argmax_hits,
    _one_tensor,
    _per_example,
    _positions,
    causal_lm,
    prediction,
)


def example_losses(loss: LossFunction, output: object, target: object) -> Tensor | None:
    """Losses of the examples ``(n,)``, or None if ``loss`` gives only their mean.

    Raises:
        DataError: If a target is out of range, or the result has another length.
    """
    values = losses_or_mean(loss, output, target)
    return None if values.ndim == 0 else _per_example(values)


def example_weights(loss: LossFunction, target: object) -> Tensor | None:
    """What each example weighs in the mean, ``(n,)``; None where all weigh the same."""
    if isinstance(loss, Loss):
        target = _one_tensor(target, loss.__name__)
    weights = getattr(loss, "weights", None)
    found: Tensor | None = weights(target) if callable(weights) else None
    return found


def prediction_weights(loss: LossFunction, target: object) -> Tensor | None:
    """What each prediction of each example weighs in the mean, in the shape of the predictions ``(n, ...)``.

    None where an example is one prediction, or the loss does not say.
    """
    if not (isinstance(loss, Loss) and isinstance(target, Tensor) and target.ndim > 1 and not continuous(target)):
        return None
    if loss is causal_lm:  # the prediction at one place is for the next, and the last is for none
        target = torch.cat([target[:, 1:], target.new_full((len(target), 1), IGNORED)], 1)
    module = loss.module
    target = target.long()
    counted: Tensor = target != getattr(module, "ignore_index", IGNORED)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return counted
    return weight.to(target.device)[target.where(counted, 0)] * counted


def example_trials(loss: LossFunction, target: Any) -> Tensor | None:
    """How many predictions of each example are right or wrong, ``(n,)``; None where each example is one.

    What a class weighs in the loss is nothing to them. Of a user's loss, what weighs nothing counts for nothing.
    """
    if isinstance(loss, Loss):
        return loss.trials(target)
    if not isinstance(target, Tensor) or target.is_floating_point():
        return None
    weights = example_weights(loss, target)
    if target.ndim == 1:
        counted = target != IGNORED
        return counted if weights is None else counted & (weights > 0)
    positions = _positions(target)
    return None if weights is None or positions is None else positions * (weights > 0)


def batch_weight(loss: LossFunction, target: object) -> Tensor | float:
    """What a batch weighs in the mean over all examples: its number of examples, or of predictions that count."""
    weights = example_weights(loss, target)
    return float(row_count(target)) if weights is None else weights.sum()


class NoTarget(DataError):
    """No target counts, so that there is nothing to average."""


def no_target(domains: Sequence[str] = (), where: str = "the data set") -> NoTarget:
    """The error that nothing can be averaged, in these domains or anywhere."""
    whose = f"domain {', '.join(domains)}" if domains else "any example"
    fix = "some must differ from the ignored label (-100) and have a class that weighs something"
    return NoTarget(f"no target of {whose} counts", where, fix + (", or leave it out" if domains else ""))


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of ``values`` ``(n,)``, shape ``()``; 0 where all weights are."""
    if weights is None:
        return values.mean()
    total = weights.sum()
    return (values * weights).sum() / total.where(total > 0, 1)


def mean_loss(loss: LossFunction, output: object, target: object) -> Tensor:
    """Mean loss over the examples, shape ``()``."""
    values = losses_or_mean(loss, output, target)
    return values if values.ndim == 0 else weighted_mean(_per_example(values), example_weights(loss, target))


def _versions(output: object) -> list[int]:
    """How often each tensor was written to."""
    return [t._version for t in leaves(output) if not t.is_inference()]


def losses_or_mean(loss: LossFunction, output: object, target: Any) -> Tensor:
    """What a loss returns: losses of the examples ``(n, ...)``, or their mean ``()``.

    Raises:
        DataError: If it is something else, or the targets do not fit.
        UsageError: If the loss writes into the outputs.
    """
    written = _versions(output)
    try:
        values = loss(output, target)
    except IndexError as error:  # torch: "Target 7 is out of bounds."
        shape = prediction(output).shape
        classes = shape[1] if len(shape) > 1 else 0
        raise DataError(
            f"a label is outside 0..{classes - 1} ({error})", "the loss", f"the model has {classes} outputs"
        ) from error
    except (ValueError, RuntimeError) as error:
        if isinstance(loss, Loss) and "xpected target size" in str(error):
            shapes = f"outputs have shape {tuple(prediction(output).shape)}, targets {tuple(target.shape)}"
            fix = "name another `loss=`; token_cross_entropy and causal_lm take logits (n, tokens, classes)"
            raise DataError(shapes, loss.__name__, fix) from error
        if "omplex" in str(error) and any(t.is_complex() for t in leaves((output, target))):
            raise DataError(
                f"the loss takes no complex numbers ({str(error)[:120]})",
                getattr(loss, "__name__", type(loss).__name__),
                "let the model return real numbers (.abs(), .real), or name mse or l1",
            ) from error
        if re.search("expected (target dtype to be|scalar type) Long", str(error)):
            fix = "return labels as int64, labels.astype('int64'), or name `loss='cross_entropy'`, which takes any"
            raise DataError(f"the loss does not take the labels: {error}", "the targets", fix) from error
        raise
    if _versions(output) != written:  # asked again, as for the accuracy or a domain, it would see other outputs
        raise UsageError(
            "the loss writes into the outputs of the network",
            getattr(loss, "__name__", type(loss).__name__),
            "use functions that return a new tensor (o - o.max(), not o.sub_(o.max())), or begin with output.clone()",
        )
    n = row_count(target)
    if not isinstance(values, Tensor) or (values.ndim and values.shape[0] != n):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise DataError(
            f"the loss returned {got} for {n} examples",
            getattr(loss, "__name__", "loss"),
            "return one loss per example, shape (n,), or their mean, shape ()",
        )
    if values.is_complex():
        raise DataError(
            "the loss is complex, and has no minimum",
            getattr(loss, "__name__", type(loss).__name__),
            "return real numbers: .abs(), .abs().square(), .real",
        )
    return values


def domain_means(
    loss: LossFunction,
    output: object,
    target: object,
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
    members = [domain == i for i in present]
    if values is None:
        if len(present) == 1:  # all rows, of an output that may hold more than rows
            return mean_loss(loss, output, target)[None]
        return torch.stack([mean_loss(loss, take_rows(output, m), take_rows(target, m)) for m in members])
    weights = example_weights(loss, target)
    return torch.stack([weighted_mean(values[m], None if weights is None else weights[m]) for m in members])


def correct(loss: LossFunction, output: object, target: Any) -> Tensor | None:
    """Share of each example's predictions that are right, ``(n,)``; None if this is no classification.

    A loss of ours knows; for a user's, integer targets beside class scores are a classification.
    """
    if isinstance(loss, Loss):
        return loss.hits(prediction(output), target)
    return _argmax_hits(output, target) if isinstance(output, Tensor) else None
