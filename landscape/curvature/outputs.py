"""What a network gives for a batch, one tensor or several, and the batch's loss as a function of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autograd.late_logits import Logits
from ..autograd.substitutes import plain_checkpoints
from ..base.errors import NumericalError, UsageError
from ..data.examples import Batch
from ..data.loss_values import batch_weight, mean_loss
from ..data.losses import Loss, causal_lm, cross_entropy, prediction, token_cross_entropy
from ..numerics.tensors import continuous
from ..numerics.trees import map_kept
from ..problem.problem import Problem
from ..problem.weighted_losses import WeightedLosses
from ..problem.with_loss import PREFIX, WithLoss, WithObjective

_OF_LOGITS = (causal_lm, cross_entropy, token_cross_entropy)
_SAME = {torch.float32: 1e-4, torch.float64: 1e-9}


@dataclass(frozen=True)
class Outputs:
    """Outputs of a batch that depend on the weights, and the loss as a function of them.

    Attributes:
        tensors: The outputs, with their graph; complex ones are complex.
        total: From other values of them to the batch's summed loss, shape ``()``.
    """

    tensors: list[Tensor]
    total: Callable[[Sequence[Tensor]], Tensor]

    def only(self) -> Tensor:
        """The output of a network that has one.

        Raises:
            UsageError: If there are several.
        """
        if len(self.tensors) != 1:
            what = f"the network has {len(self.tensors)} outputs"
            raise UsageError(what, "`operator=`", "use ggn, or empirical-fisher with `unit='example'`")
        return self.tensors[0]


def outputs_of(problem: Problem, batch: Batch, *, by_parts: bool = False) -> Outputs:
    """The outputs of a batch at the current weights.

    Args:
        problem: The network and its loss.
        batch: The examples.
        by_parts: Of logits that have not been computed (`late_logits`) take what they are made of, hidden states and
            the head, for outputs, and a loss whose Hessian there is the Gauss-Newton matrix of the logits.

    Raises:
        UsageError: If outputs and loss cannot be had apart from each other, or parameters of the loss move.
    """
    _refuse_moving_loss(problem)
    if isinstance(problem.model, WithObjective):
        return _of_objective(problem, batch)
    loss, returned, targets = problem.loss_function, problem.output(batch), batch.targets
    if isinstance(loss, WeightedLosses) and (own := loss.computed_by(returned)):
        raise UsageError(
            f"the network returns losses ({', '.join(own)}), and no outputs that the matrix could be of",
            "`operator=`",
            "use `operator='hessian'`, or let it return outputs and name their losses: `loss={'kind': (0.3, 'mse')}`",
        )
    weight = batch_weight(loss, targets)
    if isinstance(loss, Loss) or isinstance(returned, Tensor):
        output = prediction(returned)
        if isinstance(output, Logits):
            if by_parts and loss in _OF_LOGITS:
                logits = output
                return Outputs(logits.parts, lambda v: mean_loss(loss, logits.with_parts(v), targets) * weight)
            output = output.whole()
        found = [output] if output.requires_grad else []

        def of_one(values: Sequence[Tensor]) -> Tensor:
            return mean_loss(loss, values[0], targets) * weight

        return Outputs(found, of_one)
    returned = _whole(returned)
    found = _moving(returned)
    if any(t.shape[:1] != (len(batch),) for t in found):
        raise UsageError(
            "it gives a loss or other things that have no row per example, beside its outputs or in their place",
            type(problem.network).__name__,
            "use `operator='hessian'`, or an objective of two halves: output(model, batch) and loss(output, batch)",
        )
    return Outputs(found, lambda values: mean_loss(loss, _with(returned, values), targets) * weight)


def _of_objective(problem: Problem, batch: Batch) -> Outputs:
    assert isinstance(problem.model, WithObjective)
    with plain_checkpoints():
        both = [(_whole(output), loss) for output, loss in problem.model(batch.inputs, apart=True)]
    found = [_moving(output) for output, _ in both]

    def total(values: Sequence[Tensor]) -> Tensor:
        left = iter(values)
        parts = []
        for (output, loss), own in zip(both, found, strict=True):
            parts.append(loss(_with(output, [next(left) for _ in own]))[0])
        return torch.stack(parts).sum()

    return Outputs([t for own in found for t in own], total)


def require_halves(problem: Problem) -> None:
    """Compare, once, the loss of an objective with that of its two halves.

    Raises:
        UsageError: If there are no halves, or parameters of the loss move.
        NumericalError: If the two are not the same loss.
    """
    _refuse_moving_loss(problem)
    if not isinstance(problem.model, WithObjective):
        return
    batch = problem.head(1)
    with torch.enable_grad():
        outputs = _of_objective(problem, batch)
        apart = float(outputs.total(outputs.tensors).detach())
    with torch.no_grad():
        whole = float(mean_loss(problem.loss_function, problem.output(batch), batch.targets)) * float(batch.targets)
    if abs(whole - apart) > _SAME[problem.dtype] * max(abs(whole), abs(apart)):
        raise NumericalError(
            f"called, it gives {whole:.6g} for a batch, and {apart:.6g} by loss(output(model, batch), batch)",
            f"objective {problem.loss_name}",
            "let both be the same loss",
        )


def _refuse_moving_loss(problem: Problem) -> None:
    own = [name for name in problem.space.names if name.startswith(PREFIX)]
    if own and isinstance(problem.model, WithLoss) and problem.model.learned:
        raise UsageError(
            "the matrix is of the network's outputs, and parameters of the loss are behind them",
            own[0],
            f"use `operator='hessian'`, or hold them fixed: `params=` '^(?!{PREFIX[:-1]}[.])'",
        )


def _whole(tree: object) -> object:
    """The tree with all logits computed."""
    return map_kept(tree, lambda t: t.whole() if isinstance(t, Logits) else t)


def _moving(tree: object) -> list[Tensor]:
    """The outputs in a tree that depend on the weights."""
    if isinstance(tree, Tensor):
        return [tree] if tree.requires_grad and continuous(tree) else []
    if not isinstance(tree, (tuple, list, Mapping)):
        raise UsageError(
            f"the network returns a {type(tree).__name__}", "`operator=`", "let it return tensors, or use hessian"
        )
    found: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        if tensor.requires_grad and continuous(tensor):
            found.append(tensor)
        return tensor

    map_kept(tree, take)
    return found


def _with(tree: object, values: Sequence[Tensor]) -> object:
    """The tree with other values of what `_moving` finds in it."""
    left: Iterator[Tensor] = iter(values)
    return map_kept(tree, lambda t: next(left) if t.requires_grad and continuous(t) else t)
