"""Changes of a network that leave what it predicts alone: which measures move with them?

``rescale`` (Dinh et al. 2017, arXiv 1703.04933) multiplies a layer by alpha and divides the next one by it, where
what lies between is positively homogeneous; a layer in front of BatchNorm is multiplied and the running statistics
follow. ``logits`` multiplies the outputs by t: the accuracy stays, the loss does not. A measure that moves tells
networks apart that are the same function, or the same classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..data.losses import prediction
from ..problem.forward import forward
from ..problem.problem import Problem

RESCALE = (1.0, 2.0, 5.0, 10.0)
LOGITS = (1.0, 2.0, 4.0)
_LINEAR = (nn.Linear, nn.modules.conv._ConvNd)
_NORM = nn.modules.batchnorm._BatchNorm
_SAME = {torch.float32: 1e-4, torch.float64: 1e-9}
_LOOK = 64  # examples on which functions are compared


@dataclass(frozen=True)
class Pair:
    """Two layers of a network, by name: ``first`` is multiplied, ``second`` undoes it.

    Attributes:
        first: A layer with weights.
        second: The next layer with weights, or the BatchNorm layer that follows.
        norm: Whether ``second`` undoes by its running statistics.
    """

    first: str
    second: str
    norm: bool

    def apply(self, model: nn.Module, alpha: float) -> None:
        """Rescale ``model`` in place."""
        first, second = model.get_submodule(self.first), model.get_submodule(self.second)
        with torch.no_grad():
            for tensor in first.parameters(recurse=False):
                tensor.mul_(alpha)
            if self.norm:
                assert isinstance(second, _NORM)
                assert second.running_mean is not None
                assert second.running_var is not None
                second.running_mean.mul_(alpha)
                # The variance and the constant beside it grow together, so that the function stays exactly.
                second.running_var.add_(second.eps).mul_(alpha**2).sub_(second.eps)
            else:
                assert isinstance(second.weight, Tensor)
                second.weight.div_(alpha)


def controlled(problem: Problem, control: str) -> tuple[list[tuple[float, Problem]], list[Pair]]:
    """The changed networks, each with its factor (the first is 1), and the layers that were changed.

    Raises:
        UsageError: If no pair of layers can be rescaled.
    """
    if control == "logits":
        return [(t, with_output(problem, partial(torch.mul, t))) for t in LOGITS], []
    pairs = rescalable(problem)
    if not pairs:
        raise UsageError(
            "no layer can be rescaled without changing the function",
            f"`control='rescale'` of {type(problem.network).__name__}",
            "it needs ReLU-like activations between two layers, or BatchNorm behind one",
        )
    found = []
    for alpha in RESCALE:
        model = problem.twin()
        for pair in pairs:
            pair.apply(model, alpha)
        found.append((alpha, problem.with_model(model)))
    return found, pairs


def with_output(problem: Problem, function: Callable[[Tensor], Tensor]) -> Problem:
    """The same network with ``function`` applied to its output; parameters keep their names."""
    if problem.by_objective:
        what = "an objective hides the outputs of the network, which this multiplies"
        raise UsageError(
            what, "`control='logits'`, `normalize_logits=True`", "leave it out, or do it in the objective"
        )
    model = problem.twin()
    model.register_forward_hook(lambda module, inputs, output: function(prediction(output)))
    return problem.with_model(model)


def normalized_logits(output: Tensor) -> Tensor:
    """(f − mean f)/max(‖f − mean f‖, 1e-10) for each example (Andriushchenko et al. 2023), shape kept."""
    if output.ndim < 2 or output.shape[1] < 2:
        raise UsageError(
            f"outputs of shape {tuple(output.shape)} are no logits", "`normalize_logits=`", "leave the flag out"
        )
    centred = output - output.mean(1, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return centred / norm.clamp_min(1e-10)


def rescalable(problem: Problem) -> list[Pair]:
    """Pairs of layers that can be rescaled together, none in two pairs; each was tried and leaves the outputs alone.

    Candidates are layers that follow each other in the order of execution; what lies between them is not read but
    tried, so a pair is never taken for one wrongly.
    """
    before = outputs(problem, problem.model)
    found: list[Pair] = []
    used: set[str] = set()
    for pair in _candidates(problem):
        if {pair.first, pair.second} & used:
            continue
        model = problem.twin()
        pair.apply(model, 2.0)
        if output_change(before, outputs(problem, model)) <= _SAME[problem.dtype]:
            found.append(pair)
            used |= {pair.first, pair.second}
    return found


def outputs(problem: Problem, model: nn.Module) -> Tensor:
    """Outputs for the first examples."""
    batch = problem.head(1 if problem.by_objective else _LOOK)
    with torch.no_grad():
        return prediction(forward(model, batch.inputs))


def output_change(before: Tensor, after: Tensor) -> float:
    """Largest difference of two outputs, relative to the largest entry of ``before``."""
    return float((after - before).abs().max() / before.abs().max().clamp_min(1e-30))


def _candidates(problem: Problem) -> Iterator[Pair]:
    order = _executed(problem)
    for (a, first), (b, second) in pairwise(order):
        if isinstance(first, _LINEAR) and isinstance(second, _NORM) and second.running_var is not None:
            yield Pair(a, b, norm=True)
    for (a, first), (b, second) in pairwise(order):
        if isinstance(second, _LINEAR) and next(first.parameters(recurse=False), None) is not None:
            yield Pair(a, b, norm=False)


def _executed(problem: Problem) -> list[tuple[str, nn.Module]]:
    """Linear, convolutional and BatchNorm layers in the order of execution; those that run twice are left out."""
    model = problem.twin()
    calls: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, (*_LINEAR, _NORM)):
            module.register_forward_hook(lambda m, i, o, name=name: calls.append(name))
    outputs(problem, model)
    return [(name, problem.model.get_submodule(name)) for name in calls if calls.count(name) == 1]
