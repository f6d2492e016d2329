"""m-sharpness (Foret et al. 2021, arXiv 2010.01412, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..ascent import ascent_step
from ..problem import Problem
from ..progress import report
from ..stores import Indices


@dataclass(frozen=True)
class Sharpness:
    """One measured value: ``value`` and its standard error over ``n_blocks`` blocks (None for one block)."""

    value: float
    stderr: float | None
    n_blocks: int


def blocks(order: Indices, m: int) -> list[Indices]:
    """Consecutive blocks of ``m`` examples; where ``m`` does not divide ``n`` the last one holds the rest."""
    return [order[i : i + m] for i in range(0, len(order), m)]


def m_sharpness(
    problem: Problem, *, m: int, rhos: tuple[float, ...], p: str = "2", adaptive: bool = False, seed: int = 0
) -> list[Sharpness]:
    """How much each block's loss rises at the block's own ascent step, averaged over the blocks.

        s_m = Σ_k (|B_k|/n) [L_k(w + e_k) − L_k(w)],   e_k = one ascent step of radius rho on block k

    The blocks partition the problem's examples in one seeded, stratified order, so they are nested for nested
    m and values for different m are comparable. Where m does not divide n the last block is smaller and is
    weighted by its size. rho is not rescaled with m; running statistics are fixed (eval mode).

    Args:
        problem: Network, loss and examples.
        m: Examples per block, at most the number of examples.
        rhos: Radii.
        p: Norm of the ball: ``"2"``, ``"inf"`` or ``"1"``.
        adaptive: Elementwise adaptive ball, ‖e / |w|‖_p ≤ rho.
        seed: Seed of the partition.

    Returns:
        One value per radius; the standard error is that of the weighted mean over blocks (ddof 1).

    Cost: one gradient per example, and one forward per example and radius.
    """
    parts = blocks(problem.examples.stratified_order(seed), m)
    rises = torch.zeros(len(rhos), len(parts), dtype=torch.float64, device=problem.device)
    weights = [p.detach().clone() for p in problem.space.tensors] if adaptive else None
    for k, positions in enumerate(parts):
        block = problem.of_examples(positions)
        before, gradient = block.loss_and_gradient()
        for r, rho in enumerate(rhos):
            step = ascent_step(problem.space.split(gradient), rho, p=p, weights=weights)
            with problem.excursion() as tensors:
                torch._foreach_add_(tensors, step)
                rises[r, k] = block.loss_tensor() - before
        report(f"m-sharpness, m = {m}", k + 1, len(parts))
    weight = np.array([problem.of_examples(b).total_weight for b in parts]) / problem.total_weight
    values = rises.cpu().numpy()
    return [
        Sharpness(
            float(row @ weight),
            float(np.sqrt(len(parts) / (len(parts) - 1) * (weight**2 @ (row - row @ weight) ** 2)))
            if len(parts) > 1
            else None,
            len(parts),
        )
        for row in values
    ]
