"""m-sharpness (Foret et al. 2021, arXiv 2010.01412, section 4.1) and the worst cases that differ in the ball."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.progress import report
from ..numerics.intervals import mean_and_stderr
from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import SharpnessSpec
from .engine import norm_ball as ball
from .engine.ascent import Climb, auto_pgd, one_step, projected_ascent
from .engine.blockwise import Group, over_groups
from .engine.measurement import Measurement
from .engine.norm_ball import NormBall
from .engine.partition import partition, shares

DEFAULT_M = (1, 4, 16, 64, 256)


@dataclass(frozen=True)
class Sharpness:
    """One measured value: ``value`` and its standard error over ``n_blocks`` blocks (None for one block)."""

    value: float
    stderr: float | None
    n_blocks: int


def block_sharpness(
    problem: Problem,
    balls: Sequence[NormBall],
    *,
    m: int,
    climb: Climb = one_step,
    seed: int = 0,
    way: str | None = None,
    how: str = "random",
) -> list[Sharpness]:
    """How much each block's loss rises when the block climbs inside a ball, averaged over the blocks.

        s_m = Σ_k (|B_k|/n) [max_{u in ball} L_k(w + T ⊙ u) − L_k(w)]

    The blocks partition the problem's examples in one seeded order (see
    `landscape.measures.engine.partition`). rho is not rescaled with m; running statistics are fixed (eval mode).

    Args:
        problem: Network, loss and examples.
        balls: Where to climb; all share the gradients at the centre.
        m: Examples per block, at most the number of examples.
        climb: How the maximum is sought.
        seed: Seed of the partition.
        how: How examples are dealt to blocks: ``random`` or ``stratified``.
        way: ``"loop"`` or ``"stack"`` for the way blocks are computed; None: the faster one by rule.

    Returns:
        One value per ball; the standard error is that of the weighted mean over blocks (ddof 1).

    Cost: one gradient per example, and per ball one forward per example (one step) or a gradient per step.
    """
    parts = partition(problem, m, seed, how)
    centre = problem.weights

    def rises_of(group: Group) -> Tensor:
        before, gradient = group.losses_and_gradients(centre[None])
        return torch.stack([climb(group, centre, before, gradient, b) for b in balls])

    weights, found = shares(problem, parts), []
    for done, rises in over_groups(problem, parts, rises_of, way):
        found.append(rises)
        report(f"sharpness, m = {m}", done, len(parts))
    table = torch.cat(found, dim=1).cpu().numpy()
    return [Sharpness(*mean_and_stderr(row, weights), len(parts)) for row in table]


def sizes(problem: Problem, spec: SharpnessSpec) -> tuple[int, ...]:
    """The block sizes asked for, or those of the default ones that fit."""
    if problem.loss_over == "batch":
        return spec.m or (problem.batch_size,)
    return spec.m or tuple(m for m in DEFAULT_M if m <= problem.n_examples)


def m_sharpness(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """Mean over blocks of max_{‖e_k‖_p ≤ rho} L_k(w + e_k) − L_k(w) (arXiv 2010.01412, section 4.1).

    By one ascent step; ``inner_steps`` and ``maximizer="apgd"`` seek the maximum harder. ``adaptive`` measures
    the ball in units of |w| elementwise, ‖e / |w|‖_p ≤ rho.
    """
    scale = ball.elementwise(problem) if spec.adaptive else None
    yield from _values(problem, spec, seed, scale, spec.rho or (0.05,), sizes(problem, spec), climb_of(spec))


def asam_sharpness(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """The same in the ball of the authors' ASAM, ‖e / T‖_p ≤ rho with T = |w| + eta for weights and 1 for biases.

    Source: Kwon et al. 2021, arXiv 2102.11600; T as in SamsungLabs/ASAM.
    """
    scale = ball.asam(problem, 0.01 if spec.eta is None else spec.eta)
    yield from _values(problem, spec, seed, scale, spec.rho or (0.5,), sizes(problem, spec), climb_of(spec))


def worst_case_adaptive(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """Worst-case adaptive sharpness, ‖e / |w|‖_p ≤ rho, by 20 steps of Auto-PGD on blocks of 128 examples.

    Source: Andriushchenko et al. 2023, arXiv 2302.07011. The ascent runs in the coordinates e/|w|, where the ball is
    plain and its projection exact; the authors' code bisects for the projection onto the ellipsoid.
    """
    climb = (
        auto_pgd(spec.inner_steps or 20) if spec.maximizer != "ascent" else projected_ascent(spec.inner_steps or 1)
    )
    few = problem.batch_size if problem.loss_over == "batch" else min(128, problem.n_examples)
    scale, m = ball.elementwise(problem), spec.m or (few,)
    yield from _values(problem, spec, seed, scale, spec.rho or (0.1,), m, climb)


def climb_of(spec: SharpnessSpec) -> Climb:
    """How the spec wants the maximum sought."""
    return auto_pgd(spec.inner_steps or 20) if spec.maximizer == "apgd" else projected_ascent(spec.inner_steps or 1)


def _values(
    problem: Problem,
    spec: SharpnessSpec,
    seed: int,
    scale: Tensor | None,
    rhos: Sequence[float],
    m: Sequence[int],
    climb: Climb,
) -> Iterator[Measurement]:
    for size in m:
        balls = [NormBall(r, spec.p, scale) for r in rhos]
        found = block_sharpness(problem, balls, m=size, climb=climb, seed=seed, how=spec.blocks)
        last = partition(problem, size, seed, spec.blocks)[-1]
        for rho, s in zip(rhos, found, strict=True):
            facts: dict[str, float] = {"last_block": len(last)}
            if scale is None:
                facts["relative_radius"] = rho / float(torch.linalg.vector_norm(wide(problem.weights)))
            yield Measurement(
                value=s.value,
                stderr=s.stderr,
                n_blocks=s.n_blocks,
                m=size,
                rho=rho,
                p=spec.p,
                adaptive=scale is not None,
                facts=facts,
            )
