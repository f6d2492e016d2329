"""Ways to climb inside a ball: one step, projected ascent, Auto-PGD. Each block climbs on its own, all at once.

A climb starts at the centre with the blocks' losses and gradients there, which every radius shares, and returns
how much each block's loss rose.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...base.errors import UsageError
from .blockwise import Group
from .norm_ball import NormBall

Climb = Callable[[Group, Tensor, Tensor, Tensor, NormBall], Tensor]

# Auto-PGD as sharpness-vs-generalization uses it: first step, momentum, first checkpoint, its decrease and least gap.
_FIRST, _MOMENTUM, _GAP, _SHRINK, _LEAST, _IMPROVED = 2.0, 0.75, 0.22, 0.03, 0.06, 0.75


def one_step(group: Group, centre: Tensor, before: Tensor, gradient: Tensor, ball: NormBall) -> Tensor:
    """The rise at the step that maximises the linearised loss (arXiv 2010.01412, Eq. 2).

    Args:
        group: The blocks.
        centre: The weights, ``(n_parameters,)``.
        before: Loss of each block at the centre, ``(k,)``.
        gradient: Its gradient there, ``(k, n_parameters)``.
        ball: Where to climb.

    Returns:
        Rise of each block's loss, ``(k,)``, float64.
    """
    points = ball.to_weights(ball.steepest(ball.to_coordinates(gradient)))
    points += centre  # in place: fresh memory for all rows costs as much as a small network's pass
    return group.losses(points) - before


def projected_ascent(steps: int) -> Climb:
    """``steps`` steepest-ascent steps, each projected onto the ball; the best point met counts.

    The first step is the one step, the others have length 2.5·rho/steps (at most rho), so that more steps never
    give less than one. One step is `one_step` itself.
    """
    if steps == 1:
        return one_step

    def climb(group: Group, centre: Tensor, before: Tensor, gradient: Tensor, ball: NormBall) -> Tensor:
        u = ball.steepest(ball.to_coordinates(gradient))
        best = torch.full_like(before, -math.inf)
        length = min(ball.rho, 2.5 * ball.rho / steps)
        for _ in range(steps - 1):
            loss, gradient = group.losses_and_gradients(centre + ball.to_weights(u))
            best = torch.maximum(best, loss)
            u = ball.project(u + ball.steepest(ball.to_coordinates(gradient), length))
        best = torch.maximum(best, group.losses(centre + ball.to_weights(u)))
        return best - before

    return climb


def auto_pgd(steps: int) -> Climb:
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, algorithm 1), for p = 2 and inf; the best point met counts.

    Steps start at 2·rho with momentum 0.75. At checkpoints (after 22 % of the steps, then at gaps that shrink by 3 %
    down to 6 %) a block whose loss rose in fewer than 75 % of the steps since the last one, or whose best point did
    not change while its step did not, halves its step and goes on from its best point.
    """
    checkpoints = _checkpoints(steps)

    def climb(group: Group, centre: Tensor, before: Tensor, gradient: Tensor, ball: NormBall) -> Tensor:
        if ball.p == "1":
            raise UsageError("Auto-PGD is for p = 2 and inf", "`p=1`", "use `maximizer='ascent'`")
        u = torch.zeros_like(gradient)
        g = ball.to_coordinates(gradient)
        previous, loss = u, before
        best_u, best_g, best = u, g, before
        step = torch.full_like(before, _FIRST * ball.rho, dtype=gradient.dtype)
        improved = torch.zeros_like(before)
        halved, best_then = torch.zeros_like(before, dtype=torch.bool), before
        last = 0
        for k in range(steps):
            target = ball.project(u + ball.steepest(g, step[:, None]))
            # The first step has no direction to keep.
            weight = 1.0 if k == 0 else _MOMENTUM
            moved = ball.project(u + weight * (target - u) + (1 - weight) * (u - previous))
            previous, u, loss_before = u, moved, loss
            loss, gradient = group.losses_and_gradients(centre + ball.to_weights(u))
            g = ball.to_coordinates(gradient)
            improved = improved + (loss > loss_before)
            better = loss > best
            best = torch.where(better, loss, best)
            best_u, best_g = torch.where(better[:, None], u, best_u), torch.where(better[:, None], g, best_g)
            if k + 1 in checkpoints:
                few = improved < _IMPROVED * (k + 1 - last)
                stuck = ~halved & (best <= best_then)
                halved = few | stuck
                step = torch.where(halved, step / 2, step)
                u, g = torch.where(halved[:, None], best_u, u), torch.where(halved[:, None], best_g, g)
                previous = torch.where(halved[:, None], best_u, previous)
                loss = torch.where(halved, best, loss)
                best_then, improved, last = best, torch.zeros_like(improved), k + 1
        return best - before

    return climb


def _checkpoints(steps: int) -> set[int]:
    places, gap, place = set(), max(1, math.ceil(_GAP * steps)), 0
    while place < steps:
        place += gap
        places.add(place)
        gap = max(gap - max(1, math.floor(_SHRINK * steps)), 1, math.ceil(_LEAST * steps))
    return places
