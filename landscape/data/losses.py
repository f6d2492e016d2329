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
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.errors import DataError, UsageError
from ..numerics.tensors import as_real, continuous
from ..registry import LOSSES
from ..runtime.devices import widest

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

    def __call__(self, output: object, target: Tensor) -> Tensor:
        """Losses of the examples, ``(n,)``.

        Raises:
            DataError: If the target is a tree of tensors, or no label where the loss wants labels.
        """
        return self.values(prediction(output), _one_tensor(target, self.__name__))


def prediction(output: object) -> Tensor:
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


def _one_tensor(target: object, loss: str) -> Tensor:
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
            "let the model return (n, classes), or name `loss='bce_with_logits'` for one score",
        )
    if target.is_floating_point() or target.is_complex():
        if target.shape == output.shape and not target.is_complex() and output.shape[1] > 1:
            return target
        raise DataError(
            f"floating targets {_of_n(target)} beside scores {_of_n(output)} are neither class numbers nor "
            "a probability for each class",
            "the targets",
            "return class numbers as integers, labels.astype('int64'), or name `loss='mse'` for a regression, "
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
    return _counted(widest(output.argmax(1) == target), target.long(), ignored)


def _classes_second(function: Callable[[Tensor, Tensor], object], shift: int) -> Callable[[Tensor, Tensor], Any]:
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
    return _per_example(widest((output > 0) == (_like(output, target) > 0.5)))


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
