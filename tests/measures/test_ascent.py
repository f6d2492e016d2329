"""Climbing inside a ball: the ball's geometry, and maxima that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import Coordinates, domain_data, problem_of, relu_study_net, small_mlp
from scipy.optimize import minimize

from landscape.base.errors import UsageError
from landscape.measures.engine.ascent import auto_pgd, one_step, projected_ascent
from landscape.measures.engine.norm_ball import NormBall, asam, elementwise
from landscape.measures.m_sharpness import block_sharpness
from landscape.measures.sharpness import sharpness
from landscape.numerics.ascent import ascent_step
from landscape.problem.problem import Problem


def norm(u: torch.Tensor, p: str) -> torch.Tensor:
    return torch.linalg.vector_norm(u, ord=float(p), dim=1)


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_the_steepest_step_is_the_optimizers_step(p: str):
    g = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).double()
    w = torch.randn(9, generator=torch.Generator().manual_seed(1)).double()
    for scale in (None, w.abs()):
        ball = NormBall(0.3, p, scale)
        rows = ball.to_weights(ball.steepest(ball.to_coordinates(g)))
        for k in range(4):
            (alone,) = ascent_step([g[k]], 0.3, p=p, weights=None if scale is None else [w])
            assert rows[k].numpy() == pytest.approx(alone.numpy(), rel=1e-12)
    assert norm(NormBall(0.3, p).steepest(g), p).tolist() == pytest.approx([0.3] * 4, rel=1e-9)
    assert not NormBall(0.3, p).steepest(torch.zeros(2, 9)).any()


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_projection_is_the_nearest_point_of_the_ball(p: str):
    ball = NormBall(0.7, p)
    u = torch.randn(5, 4, generator=torch.Generator().manual_seed(2)).double()
    u[4] *= 0.01
    found = ball.project(u)
    assert (norm(found, p) <= 0.7 * (1 + 1e-9)).all()
    assert torch.equal(found[4], u[4])
    generator = torch.Generator().manual_seed(3)
    other = ball.project(torch.randn(5, 4000, 4, generator=generator).double().flatten(0, 1)).view(5, 4000, 4)
    nearest = (other - u[:, None]).norm(dim=2).min(1).values
    assert ((found - u).norm(dim=1) <= nearest + 1e-9).all()


def quadratic(centre: np.ndarray, matrix: np.ndarray) -> Problem:
    h = torch.from_numpy(matrix)
    data = (torch.zeros(1, 1).double(), torch.zeros(1).double())
    return problem_of(Coordinates(torch.from_numpy(centre)[None]), data, lambda o, t: 0.5 * ((o @ h) * o).sum(1))


@pytest.mark.parametrize("climb", [projected_ascent(40), auto_pgd(40)], ids=["projected", "apgd"])
@pytest.mark.parametrize("p", ["2", "inf"])
def test_the_maximum_of_a_convex_quadratic_is_found(climb, p: str):
    generator = np.random.default_rng(4)
    root = generator.random((4, 4))
    centre, matrix, rho = generator.random(4), root @ root.T, 0.5  # all positive: one local maximum, the global one
    found = block_sharpness(quadratic(centre, matrix), [NormBall(rho, p)], m=1, climb=climb)[0].value

    def value(e: np.ndarray) -> float:
        return 0.5 * (centre + e) @ matrix @ (centre + e)

    if p == "inf":  # a convex maximum over a box is at a corner
        best = max(value(np.array(c)) for c in np.array(np.meshgrid(*[[-rho, rho]] * 4)).reshape(4, -1).T)
    else:
        best = -math.inf
        for _ in range(30):
            start = generator.standard_normal(4)
            sphere = minimize(lambda v: -value(rho * v / np.linalg.norm(v)), start, tol=1e-12)
            best = max(best, -sphere.fun)
    assert found == pytest.approx(best - value(np.zeros(4)), rel=1e-3)
    one = block_sharpness(quadratic(centre, matrix), [NormBall(rho, p)], m=1)[0].value
    assert one <= found * (1 + 1e-12)


def test_more_steps_never_give_less_than_one():
    problem = problem_of(small_mlp(), domain_data())
    for p in ("1", "2", "inf"):
        balls = [NormBall(0.05, p), NormBall(0.5, p), NormBall(2.0, p)]
        one = block_sharpness(problem, balls, m=6)
        for steps in (2, 5):
            more = block_sharpness(problem, balls, m=6, climb=projected_ascent(steps))
            assert all(b.value >= a.value - 1e-12 for a, b in zip(one, more, strict=True))
    assert projected_ascent(1) is one_step


def test_accurate_maxima_do_not_increase_with_m_over_nested_blocks():
    """The maximum of a mean is at most the mean of the maxima, so s_m falls as blocks are joined."""
    x, y = domain_data((24,))["art"]
    problem = problem_of(small_mlp(hidden=3), (x, y))
    for ball in (NormBall(0.3), NormBall(0.1, "inf"), NormBall(0.4, "2", elementwise(problem))):
        values = [block_sharpness(problem, [ball], m=m, climb=auto_pgd(40))[0].value for m in (1, 4, 12, 24)]
        assert values == sorted(values, reverse=True)


def test_auto_pgd_returns_the_best_point_it_met():
    """Released code loses the best point at a restart; here more steps of a hard climb never end below fewer."""
    centre = np.array([0.2, 0.1])
    data = (torch.zeros(1, 1).double(), torch.zeros(1).double())
    waves = problem_of(
        Coordinates(torch.from_numpy(centre)[None]), data, lambda o, t: (8 * o).sin().sum(1) + 0.3 * o.square().sum(1)
    )
    found = [block_sharpness(waves, [NormBall(1.0)], m=1, climb=auto_pgd(n))[0].value for n in (1, 5, 20, 80)]
    assert min(found) >= 0
    angle, radius = np.meshgrid(np.linspace(0, 2 * np.pi, 721), np.linspace(0, 1, 201))
    points = np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)])

    def value(w: np.ndarray) -> np.ndarray:
        return np.sin(8 * w).sum(0) + 0.3 * (w**2).sum(0)

    best = value(points).max() - value(centre[:, None])[0]
    assert found[-1] <= best * (1 + 1e-3)
    assert found[-1] >= 0.7 * best
    with pytest.raises(UsageError, match="Auto-PGD is for p = 2 and inf"):
        block_sharpness(waves, [NormBall(1.0, "1")], m=1, climb=auto_pgd(3))


def test_asam_scales_weights_and_not_biases():
    problem = problem_of(small_mlp(), domain_data())
    scale = problem.space.named(asam(problem, 0.25))
    assert torch.equal(scale["0.weight"], problem.space.named(problem.weights)["0.weight"].abs() + 0.25)
    assert (scale["0.bias"] == 1).all()
    x = sharpness(problem, measure=("asam-sharpness",), m=(42,), rho=(0.3,), eta=0.25)["measures"][0]["value"]
    g, t = problem.gradient(), asam(problem, 0.25)
    step = 0.3 * t * t * g / (t * g).norm()
    with problem.temporary_weights():
        problem.space.write(problem.weights + step)
        moved = problem.loss()
    assert x == pytest.approx(moved - problem.loss(), rel=1e-9)


def test_the_worst_case_measure_is_auto_pgd_in_the_adaptive_ball():
    problem = problem_of(*_study())
    found = sharpness(problem, measure=("worst-case-adaptive",), rho=(0.2,))["measures"][0]
    expected = block_sharpness(problem, [NormBall(0.2, "2", elementwise(problem))], m=64, climb=auto_pgd(20))[0]
    assert (found["value"], found["m"], found["adaptive"]) == (expected.value, 64, True)


def _study():
    model, x, y = relu_study_net()
    return model, (x, y)
