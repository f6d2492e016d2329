"""Which losses are negative log-likelihoods, whose Fisher matrix is a property of the network's prediction alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..base.errors import UsageError
from ..data.losses import IGNORED, Loss, LossFunction, as_loss
from ..problem.problem import Problem
from ..problem.weighted_losses import WeightedLosses
from ..registry import LOSSES

NATURAL = ("cross_entropy", "token_cross_entropy", "causal_lm", "mse", "bce_with_logits")
"""Those whose outputs are natural parameters, or a mean: Fisher and Gauss-Newton matrix are equal."""
_KNOWN = (*NATURAL, "nll")
_OF_TORCH: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll",
    nn.MSELoss: "mse",
    nn.BCEWithLogitsLoss: "bce_with_logits",
}
_PARTS = ("weight", "pos_weight")  # p(y) to the power of a weight is no distribution over y


@dataclass(frozen=True)
class Likelihood:
    """What a loss says about the distribution of labels.

    Attributes:
        name: The registered loss that is its negative logarithm.
        loss: Its negative logarithm at any label, as the problem weighs it.
        ignored: The target that marks what does not count.
    """

    name: str
    loss: LossFunction
    ignored: int


def require_natural_parts(loss: WeightedLosses) -> None:
    """Refuse a sum that is no negative log-likelihood of independent labels whose Fisher is Gauss-Newton's matrix.

    The weight of a squared error is another variance; p(y) to the power of a weight is no distribution over y.

    Raises:
        UsageError: Naming the first part.
    """
    for part in loss.parts:
        name = part.of if part.name is None else part.name
        if name not in NATURAL or (name != "mse" and part.weight != 1) or part.weight <= 0:
            raise UsageError(
                f"{part.of}={part.weight:g}*{name} is no likelihood known here",
                "`operator=`",
                f"use ggn or empirical-fisher; or {', '.join(NATURAL)}, all but mse with weight 1",
            )


def likelihood_of(problem: Problem) -> Likelihood:
    """The distribution behind the problem's loss.

    Smoothed labels are another target for the same distribution, and an ignored label leaves predictions out;
    weights of classes make the loss no logarithm of a distribution.

    Raises:
        UsageError: If it is none that is known here.
    """
    loss = problem.loss_function
    for name in _KNOWN:
        if loss is LOSSES.load(name):
            return Likelihood(name, loss, IGNORED)
    module: Any = loss.module if isinstance(loss, Loss) else loss
    known = _OF_TORCH.get(type(module))
    if known is not None:
        weighted = [part for part in _PARTS if getattr(module, part, None) is not None]
        if weighted:
            raise UsageError(
                f"{type(module).__name__} with {weighted[0]} is no likelihood",
                "`operator=`",
                f"use ggn or empirical-fisher, or the loss without {weighted[0]}",
            )
        plain = copy.deepcopy(module)
        if isinstance(plain, nn.CrossEntropyLoss):
            plain.label_smoothing = 0.0
        if isinstance(plain, (nn.CrossEntropyLoss, nn.NLLLoss)):
            plain.ignore_index = IGNORED
        return Likelihood(known, as_loss(plain), getattr(module, "ignore_index", IGNORED))
    raise UsageError(
        f"the loss {problem.loss_name!r} is no likelihood known here",
        "`operator=`",
        f"use ggn or empirical-fisher, or one of the losses {', '.join(_KNOWN)}",
    )
