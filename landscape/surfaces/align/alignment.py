"""Weight matching: permute the hidden units of one network to lie over those of another (arXiv 2209.04836, Alg. 1).

Two networks that compute the same function can lie far apart, because the order of hidden units is arbitrary.
Group by group, the permutation that maximises the inner product with the other network's weights is found (a
linear assignment), until no group changes any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.errors import NumericalError, UsageError
from ...base.progress import report
from ...problem.problem import Problem
from ...runtime.devices import wide
from ..evaluate.batchnorm import preserved_statistics, running_statistics
from .channels import Units, exchangeable_units

_SWEEPS = 100


def align(
    problem: Problem, weights: Sequence[Tensor], statistics: Mapping[str, Tensor], seed: int = 0
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Any]]:
    """Permute a checkpoint to match the problem's weights; what it computes stays the same, which is checked.

    Args:
        problem: The network, at the weights to be matched.
        weights: The other checkpoint, one tensor per parameter.
        statistics: Its BatchNorm statistics by name.
        seed: Of the order in which groups are visited.

    Returns:
        Permuted weights and statistics, and what was done: groups, units, units that moved, distance before
        and after, and the largest relative change of the loss by the permutation (rounding).

    Raises:
        UsageError: If no unit of this network is known to be exchangeable.
        NumericalError: If the permuted network computes something else.
    """
    batch = next(iter(problem.batches()))
    groups = exchangeable_units(problem.model, batch.inputs)
    if not groups:
        what = "no hidden units are known to be exchangeable in this model"
        raise UsageError(what, "`align=`", "drop it: its forward cannot be traced, or uses operations not understood")
    names = problem.space.names
    target = {n: t.clone() for n, t in problem.space.named(problem.space.current()).items()}
    before = {**dict(zip(names, weights, strict=True)), **statistics}
    moved = {k: v.detach().clone() for k, v in before.items()}
    permuted = [torch.arange(g.count) for g in groups]
    generator = np.random.default_rng([seed, 0xA116])
    for sweep in range(_SWEEPS):
        changed = False
        for i in generator.permutation(len(groups)):
            order = _best_order(groups[i], target, moved)
            if not torch.equal(order, torch.arange(len(order))):
                _permute(groups[i], order, moved)
                permuted[i] = permuted[i][order]
                changed = True
        report("weight matching", sweep + 1)
        if not changed:
            break
    change = _change_of_loss(problem, before, moved)
    units = sum(g.count for g in groups)
    facts = {
        "groups": len(groups),
        "units": units,
        "moved_units": sum(int((p != torch.arange(len(p))).sum()) for p in permuted),
        "distance_before": _distance(target, before),
        "distance_after": _distance(target, moved),
        "relative_change_of_loss": change,
    }
    return [moved[n] for n in names], {k: moved[k] for k in statistics}, facts


def _best_order(group: Units, target: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> Tensor:
    """For each unit of the target the unit of the other network that resembles it most, all together."""
    from scipy.optimize import linear_sum_assignment

    likeness = torch.zeros(group.count, group.count, dtype=torch.float64)
    for place, indices in group.places.items():
        if place.tensor in target:
            ours, theirs = (_by_unit(t[place.tensor], place.dimension, indices) for t in (target, moved))
            likeness += (ours @ theirs.T).cpu()
    rows, columns = linear_sum_assignment(likeness.numpy(), maximize=True)
    found = torch.from_numpy(columns[np.argsort(rows)])
    # Equal likeness is no reason to move: an assignment that gains nothing would be swapped for ever.
    identity = torch.arange(group.count)
    gain = likeness[identity, found].sum() - likeness.diagonal().sum()
    return found if float(gain) > 1e-9 * (1 + float(likeness.abs().max())) else identity


def _by_unit(tensor: Tensor, dimension: int, indices: Tensor) -> Tensor:
    """The slices of a tensor that belong to each unit, ``(units, numbers)``, float64."""
    chosen = wide(tensor.detach()).movedim(dimension, 0)[indices.to(tensor.device)]
    return chosen.reshape(len(indices), -1)


def _permute(group: Units, order: Tensor, moved: dict[str, Tensor]) -> None:
    for place, indices in group.places.items():
        if place.tensor not in moved:
            continue
        source = torch.arange(moved[place.tensor].shape[place.dimension])
        source[indices] = indices[order]
        moved[place.tensor] = moved[place.tensor].index_select(place.dimension, source.to(moved[place.tensor].device))


def _distance(target: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((wide(target[k]) - wide(other[k])).square().sum()) for k in target))


def _change_of_loss(problem: Problem, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    losses = []
    with preserved_statistics(problem.model), problem.temporary_weights() as tensors:
        for state in (before, after):
            torch._foreach_copy_(tensors, [state[n] for n in problem.space.names])
            for name, live in running_statistics(problem.model).items():
                live.copy_(state[name])
            losses.append(problem.loss())
    change = abs(losses[1] - losses[0]) / max(abs(losses[0]), 1e-3)
    if not change < 1e-3:
        raise NumericalError(
            f"the permuted network has loss {losses[1]:.6g} instead of {losses[0]:.6g}",
            "`align=`",
            "please report it; drop `align=`",
        )
    return change
