"""Losses per example, what each example weighs, and how a user's loss is understood.

The loss of a set of examples is always the *mean over its examples*. A user's callable may return the losses
of the examples, shape ``(n,)`` or ``(n, ...)`` (averaged over the rest), or their mean, shape ``()``.

Where an example holds several predictions that count (the tokens of a text, the pixels of a mask), it weighs as
many as it holds, so that the mean is over all predictions of all examples, whatever the batches. Positions with
the target -100 count for nothing. A callable of yours says the same with an attribute ``weights(target)``.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.errors import DataError, UsageError
from ..numerics.tensors import as_real, continuous
from ..numerics.trees import leaves, row_count, take_rows
from ..registry import LOSSES

LossFunction = Callable[[Any, Any], Tensor]

IGNORED = -100


class Loss:
    """A loss of this package.

    Args:
        name: Its registered name.
        values: Prediction and target to the losses of the examples, ``(n,)``.
        weights: Target to how many predictions of each example count, ``(n,)``; None where each counts as one.
        hits: Prediction and target to the share of each example's predictions that are right, ``(n,)``; None
            where nothing is classified.
        trials: Target to how many predictions of each example are right or wrong, ``(n,)``; None where each
            example is one. Other than ``weights`` where classes weigh differently: a right answer is one.
        module: The module of torch that it computes with; None: none.
    """

    def __init__(
        self,
        name: str,
        values: Callable[[Tensor, Tensor], Tensor],
        weights: Callable[[Tensor], Tensor | None] = lambda target: None,
        hits: Callable[[Tensor, Tensor], Tensor | None] = lambda output, target: None,
        trials: Callable[[Tensor], Tensor | None] | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self.__name__, self.values, self.weights, self.hits = name, values, weights, hits
        self.trials, self.module = trials or weights, module

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """Losses of the examples, ``(n,)``.

        Raises:
            DataError: If the target is a tree of tensors, or no label where the loss wants labels.
        """
        return self.values(prediction(output), _one_tensor(target, self.__name__))


def prediction(output: Any) -> Tensor:
    """The tensor that a loss of ours looks at: the output itself, or the ``logits`` or ``out`` of a structure.

    Raises:
        DataError: If there is none.
    """
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out", "prediction_logits"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    if isinstance(output, (tuple, list)) and len(output) == 1:
        return prediction(output[0])
    raise DataError(
        f"the model returned a {type(output).__name__}",
        "the loss",
        "let it return one tensor (or .logits), examples first, or name a loss of yours that takes what it returns",
    )


def _one_tensor(target: Any, loss: str) -> Tensor:
    if isinstance(target, Tensor):
        return target
    count = f" of {len(target)}" if isinstance(target, (tuple, list, Mapping)) else ""
    raise DataError(
        f"the targets are a {type(target).__name__}{count}, where {loss} wants one tensor",
        "the loss",
        "name a loss of yours that takes them, or return the one that counts",
    )


# -- classification -----------------------------------------------------------------------------------------------


def _per_example(values: Tensor) -> Tensor:
    return values if values.ndim <= 1 else values.flatten(1).mean(1)


def _counted(values: Tensor, target: Tensor, ignored: int = IGNORED) -> Tensor:
    """Mean over the positions of each example that are not ignored; 0 where all are."""
    if values.ndim <= 1:
        return values
    counted = target != ignored
    return (values * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)


def _positions(target: Tensor) -> Tensor | None:
    if target.ndim < 2 or continuous(target):
        return None
    return (target.long() != IGNORED).flatten(1).sum(1)  # as a byte, -100 is 156


def class_numbers(output: Tensor, target: Tensor) -> Tensor:
    """Labels as torch's losses read them: integers of any type, and columns ``(n, 1)``, as int64 of ``(n, ...)``.

    Args:
        output: Scores ``(n, C, ...)``.
        target: Labels ``(n, ...)`` or ``(n, 1, ...)``; or probabilities in the output's shape, which stay.

    Raises:
        DataError: If the labels are floating numbers or integers in the output's shape, or there is no class.
    """
    if output.ndim < 2:
        raise DataError(
            f"outputs {_of_n(output)} are no scores of classes",
            "the loss",
            "let the model return (n, classes), or name --loss bce_with_logits for one score",
        )
    if target.is_floating_point() or target.is_complex():
        if target.shape == output.shape and not target.is_complex() and output.shape[1] > 1:
            return target
        raise DataError(
            f"floating targets {_of_n(target)} beside scores {_of_n(output)} are neither class numbers nor "
            "a probability for each class",
            "the targets",
            "return class numbers as integers, labels.astype('int64'), or name --loss mse for a regression, "
            "bce_with_logits for one score",
        )
    if target.ndim == output.ndim and target.ndim > 1:
        if target.shape[1] == 1:
            return target.squeeze(1).long()
        if target.shape == output.shape:
            raise DataError(
                f"integer targets {_of_n(target)} have one number for each class",
                "the targets",
                "return class numbers, targets.argmax(1), or probabilities, targets.astype('float32')",
            )
    return target.long()


def _of_n(tensor: Tensor) -> str:
    """A shape in words, whatever the number of examples."""
    return str(("n", *tensor.shape[1:])).replace("'", "")


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    target = class_numbers(output, target)
    if _few_classes(output, target):
        return F.cross_entropy(output.t().unsqueeze(0), target.unsqueeze(0), reduction="none")[0]
    values = F.cross_entropy(output, target, reduction="none")
    return _per_example(values) if target.is_floating_point() else _counted(values, target)


def _few_classes(output: Tensor, target: Tensor) -> bool:
    """Whether cross-entropy is faster with the classes laid out as channels, which gives the same numbers.

    On a CPU torch walks through rows shorter than a vector register one number at a time: ten classes take six times
    as long as sixteen. With derivatives the turning costs more than it saves.
    """
    plain = output.ndim == 2 and output.shape[1] < 16 <= len(output) and target.ndim == 1
    return plain and output.device.type == "cpu" and not torch.is_grad_enabled() and not target.is_floating_point()


def _nll(output: Tensor, target: Tensor) -> Tensor:
    target = class_numbers(output, target)
    return _counted(F.nll_loss(output, target, reduction="none"), target)


def _argmax_hits(output: Tensor, target: Tensor, ignored: int = IGNORED) -> Tensor | None:
    if output.ndim < 2 or output.shape[1] < 2 or not isinstance(target, Tensor) or continuous(target):
        return None
    if target.shape == (*output.shape[:1], 1, *output.shape[2:]):
        target = target.squeeze(1)
    if output.is_complex() or target.shape != output.shape[:1] + output.shape[2:]:
        return None
    return _counted((output.argmax(1) == target).double(), target.long(), ignored)


def _classes_second(function: Callable[[Tensor, Tensor], Any], shift: int) -> Callable[[Tensor, Tensor], Any]:
    """Turn a function of ``(n, C, T)`` into one of ``(n, T, C)`` whose predictions are for ``shift`` places later."""

    def turned(output: Tensor, target: Tensor) -> Any:
        if output.ndim != 3 or target.shape != output.shape[:2]:
            raise DataError(
                f"outputs have shape {tuple(output.shape)}, targets {tuple(target.shape)}",
                "the loss",
                "it wants logits (n, tokens, classes) and targets (n, tokens)",
            )
        return function(output[:, : output.shape[1] - shift].transpose(1, 2), target[:, shift:])

    return turned


cross_entropy = Loss("cross_entropy", _cross_entropy, _positions, _argmax_hits)
"""Softmax cross-entropy of logits ``(n, C, ...)`` and integer targets ``(n, ...)`` or probabilities."""
nll = Loss("nll", _nll, _positions, _argmax_hits)
"""Negative log-likelihood of log-probabilities ``(n, C, ...)``."""
token_cross_entropy = Loss(
    "token_cross_entropy", _classes_second(_cross_entropy, 0), _positions, _classes_second(_argmax_hits, 0)
)
"""Cross-entropy of logits ``(n, T, C)`` and targets ``(n, T)``: masked language models, tagging."""
causal_lm = Loss(
    "causal_lm",
    _classes_second(_cross_entropy, 1),
    lambda target: _positions(target[:, 1:]),
    _classes_second(_argmax_hits, 1),
)
"""Next-token cross-entropy of logits ``(n, T, C)`` and the tokens themselves ``(n, T)``, shifted here."""

# -- other targets -------------------------------------------------------------------------------------------------


def _bce_with_logits(output: Tensor, target: Tensor) -> Tensor:
    target = _real(output, target)
    return _per_example(F.binary_cross_entropy_with_logits(output, target, reduction="none"))


def _sign_hits(output: Tensor, target: Tensor) -> Tensor:
    return _per_example(((output > 0) == (_like(output, target) > 0.5)).double())


def _squares(difference: Tensor) -> Tensor:
    return as_real(difference).square().sum(-1) if difference.is_complex() else difference.square()


def _like(output: Tensor, target: Tensor) -> Tensor:
    """Targets in the output's shape, as real numbers; ``(n,)`` beside ``(n, 1)`` would otherwise broadcast."""
    if not target.is_floating_point() and not target.is_complex():  # a boolean cannot be subtracted
        target = target.to(torch.promote_types(output.dtype, torch.float32))
    if target.shape == output.shape:
        return target
    if target.numel() == output.numel():
        return target.reshape(output.shape)
    raise DataError(
        f"outputs have shape {tuple(output.shape)}, targets {tuple(target.shape)}",
        "the loss",
        "make the model's outputs and the targets of equal size",
    )


mse = Loss("mse", lambda output, target: _per_example(_squares(output - _like(output, target))))
"""Squared error, |output − target|² also of complex ones, mean over the outputs of each example."""
l1 = Loss("l1", lambda output, target: _per_example((output - _like(output, target)).abs()))
"""Absolute error, mean over the outputs of each example."""
huber = Loss(
    "huber", lambda output, target: _per_example(F.huber_loss(output, _like(output, target), reduction="none"))
)
"""Huber error with delta 1, mean over the outputs of each example."""
bce_with_logits = Loss("bce_with_logits", _bce_with_logits, hits=_sign_hits)
"""Binary cross-entropy of logits and targets in [0, 1], mean over the outputs: one label or several."""

# -- the losses of torch ---------------------------------------------------------------------------------------------

_FUNCTIONS: dict[Any, Loss | nn.Module] = {
    F.cross_entropy: cross_entropy,
    F.nll_loss: nll,
    F.mse_loss: mse,
    F.l1_loss: l1,
    F.huber_loss: huber,
    F.binary_cross_entropy_with_logits: bce_with_logits,
    F.smooth_l1_loss: nn.SmoothL1Loss(),
    F.binary_cross_entropy: nn.BCELoss(),
    F.soft_margin_loss: nn.SoftMarginLoss(),
    F.poisson_nll_loss: nn.PoissonNLLLoss(),
    F.multi_margin_loss: nn.MultiMarginLoss(),
}
_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_PLAIN = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.SoftMarginLoss,
    nn.PoissonNLLLoss,
)


def as_loss(loss: str | LossFunction) -> LossFunction:
    """What to compute with: a registered loss by its name, torch's own with a loss per example, others as they are.

    Torch's mean of a batch divides by the class weights, or the targets that are not ignored, in that batch; here
    the same mean is over all examples.

    Raises:
        UsageError: If the name is unknown, or the loss is a sum.
    """
    if isinstance(loss, str):
        found: LossFunction = LOSSES.load(loss)
        return found
    if isinstance(loss, Hashable) and loss in _FUNCTIONS:
        known = _FUNCTIONS[loss]
        return known if isinstance(known, Loss) else as_loss(known)
    if getattr(loss, "reduction", None) == "sum":
        raise UsageError(
            "the loss is a sum over the batch", type(loss).__name__, "give it reduction='mean' or 'none'"
        )
    takes_classes = isinstance(loss, (*_CLASSES, nn.MultiMarginLoss))
    mean = getattr(loss, "reduction", None) == "mean"
    if not takes_classes and not (mean and isinstance(loss, _PLAIN)):
        return loss
    each: Any = copy.deepcopy(loss)
    each.reduction = "none"
    name = type(loss).__name__
    if isinstance(each, _CLASSES) and mean:
        hits = functools.partial(_argmax_hits, ignored=each.ignore_index)
        weights, trials = functools.partial(_class_weights, each), functools.partial(_labels, each)
        return Loss(name, _weighted(each), weights, hits, trials, each)
    if takes_classes:
        ignored = getattr(each, "ignore_index", IGNORED)

        def of_classes(output: Tensor, target: Tensor) -> Tensor:
            return _per_example(each.to(output)(output, class_numbers(output, target)))

        hits = functools.partial(_argmax_hits, ignored=ignored)
        return Loss(name, of_classes, hits=hits, module=each)
    signs = _sign_hits if isinstance(each, nn.BCEWithLogitsLoss) else _no_hits

    def values(output: Tensor, target: Tensor) -> Tensor:
        return _per_example(each.to(output.real)(output, _real(output, target)))

    return Loss(name, values, hits=signs, module=each)


def _real(output: Tensor, target: Tensor) -> Tensor:
    """Targets in the output's type; what is complex does not become real.

    Raises:
        DataError: If it would.
    """
    if target.is_complex() and not output.is_complex():
        fix = "let the model return complex numbers, or name mse or l1, which take |output - target|"
        raise DataError("the targets are complex and the outputs are real", "the loss", fix)
    return _like(output, target).to(output.dtype)


def _no_hits(output: Tensor, target: Tensor) -> None:
    return None


def _labels(each: nn.CrossEntropyLoss | nn.NLLLoss, target: Tensor) -> Tensor | None:
    """How many positions of each example are not ignored, ``(n,)``."""
    if target.is_floating_point():
        return None
    counted = target.long() != each.ignore_index
    return counted.flatten(1).sum(1) if target.ndim > 1 else counted.long()


def _class_weights(each: nn.CrossEntropyLoss | nn.NLLLoss, target: Tensor) -> Tensor | None:
    """Sum over the positions of each example of the weight of the class there, ``(n,)``."""
    if target.is_floating_point():
        return None
    if each.weight is None:
        return _labels(each, target)
    target = target.long()
    counted = target != each.ignore_index
    weights = each.weight.to(target.device)[target.where(counted, 0)] * counted
    return weights.flatten(1).sum(1) if target.ndim > 1 else weights


def _weighted(each: nn.CrossEntropyLoss | nn.NLLLoss) -> Callable[[Tensor, Tensor], Tensor]:
    def values(output: Tensor, target: Tensor) -> Tensor:
        target = class_numbers(output, target)
        found: Tensor = each.to(output.real)(output, target)
        weights = _class_weights(each, target)
        if weights is None:
            return _per_example(found)
        summed = found.flatten(1).sum(1) if found.ndim > 1 else found
        return summed / weights.where(weights > 0, 1)

    return values


# -- what is asked of any loss -------------------------------------------------------------------------------------


def example_losses(loss: LossFunction, output: Any, target: Any) -> Tensor | None:
    """Losses of the examples ``(n,)``, or None if ``loss`` gives only their mean.

    Raises:
        DataError: If a target is out of range, or the result has another length.
    """
    values = _call(loss, output, target)
    return None if values.ndim == 0 else _per_example(values)


def example_weights(loss: LossFunction, target: Any) -> Tensor | None:
    """What each example weighs in the mean, ``(n,)``; None where all weigh the same."""
    if isinstance(loss, Loss):
        target = _one_tensor(target, loss.__name__)
    weights = getattr(loss, "weights", None)
    found: Tensor | None = weights(target) if callable(weights) else None
    return found


def prediction_weights(loss: LossFunction, target: Any) -> Tensor | None:
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


def batch_weight(loss: LossFunction, target: Any) -> Tensor | float:
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


def mean_loss(loss: LossFunction, output: Any, target: Any) -> Tensor:
    """Mean loss over the examples, shape ``()``."""
    values = _call(loss, output, target)
    return values if values.ndim == 0 else weighted_mean(_per_example(values), example_weights(loss, target))


def _versions(output: Any) -> list[int]:
    """How often each tensor was written to."""
    return [t._version for t in leaves(output) if not t.is_inference()]


def _call(loss: LossFunction, output: Any, target: Any) -> Tensor:
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
            fix = "name another --loss; token_cross_entropy and causal_lm take logits (n, tokens, classes)"
            raise DataError(shapes, loss.__name__, fix) from error
        if "omplex" in str(error) and any(t.is_complex() for t in leaves((output, target))):
            raise DataError(
                f"the loss takes no complex numbers ({str(error)[:120]})",
                getattr(loss, "__name__", type(loss).__name__),
                "let the model return real numbers (.abs(), .real), or name mse or l1",
            ) from error
        if re.search("expected (target dtype to be|scalar type) Long", str(error)):
            fix = "return labels as int64, labels.astype('int64'), or name --loss cross_entropy, which takes any"
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
    output: Any,
    target: Any,
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


def correct(loss: LossFunction, output: Any, target: Any) -> Tensor | None:
    """Share of each example's predictions that are right, ``(n,)``; None if this is no classification.

    A loss of ours knows; for a user's, integer targets beside class scores are a classification.
    """
    if isinstance(loss, Loss):
        return loss.hits(prediction(output), target)
    return _argmax_hits(output, target) if isinstance(output, Tensor) else None
