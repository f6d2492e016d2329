from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    Coordinates,
    Limited,
    assert_untouched,
    dense,
    domain_data,
    mean_cross_entropy,
    problem_of,
    relu_study_net,
    small_mlp,
    snapshot,
)
from torch import Tensor, nn

from landscape.base.errors import NumericalError, UsageError
from landscape.measures.engine import norm_ball as ball
from landscape.measures.engine.norm_ball import NormBall
from landscape.measures.engine.partition import RULES, blocks
from landscape.measures.m_sharpness import Sharpness, block_sharpness
from landscape.measures.sharpness import sharpness
from landscape.problem.problem import Problem
from landscape.specs import SharpnessSpec


def rise(model: nn.Module, x: Tensor, y: Tensor, rho: float, p: str = "2", adaptive: bool = False) -> float:
    """One ascent step by hand: L(w + e) - L(w) on these examples."""
    model = copy.deepcopy(model).eval()
    params = list(model.parameters())
    before = F.cross_entropy(model(x), y)
    g = torch.autograd.grad(before, params)
    t = [w.detach().abs() if adaptive else torch.ones_like(w) for w in params]
    flat = torch.cat([(a * b).reshape(-1) for a, b in zip(g, t, strict=True)])
    with torch.no_grad():
        for w, a, b in zip(params, g, t, strict=True):
            if p == "2":
                w.add_(rho * b * b * a / flat.norm())
            elif p == "inf":
                w.add_(rho * b * a.sign())
            else:
                w.add_(rho * b * a.sign() * ((a * b).abs() == flat.abs().max()))
        return float(F.cross_entropy(model(x), y) - before)


def m_sharpness(
    problem: Problem,
    *,
    m: int,
    rhos: tuple[float, ...],
    p: str = "2",
    adaptive: bool = False,
    seed: int = 0,
    how: str = "random",
) -> list[Sharpness]:
    """One-step m-sharpness, computed both ways, which must agree; the looped value is returned."""
    scale = ball.elementwise(problem) if adaptive else None
    balls = [NormBall(rho, p, scale) for rho in rhos]
    looped = block_sharpness(problem, balls, m=m, seed=seed, how=how, way="loop")
    by_rule = block_sharpness(problem, balls, m=m, seed=seed, how=how)
    for a, b in zip(looped, by_rule, strict=True):
        assert b.value == pytest.approx(a.value, rel=1e-9, abs=1e-14)
        assert b.stderr == (None if a.stderr is None else pytest.approx(a.stderr, rel=1e-9, abs=1e-14))
    return looped


@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_one_block_is_the_sam_sharpness_by_hand(p: str, adaptive: bool):
    model = small_mlp()
    x, y = domain_data((30,))["art"]
    rhos = (0.05, 0.5)
    found = m_sharpness(problem_of(model, (x, y)), m=30, rhos=rhos, p=p, adaptive=adaptive)
    assert [s.value for s in found] == pytest.approx([rise(model, x, y, r, p, adaptive) for r in rhos], rel=1e-10)
    assert [(s.n_blocks, s.stderr) for s in found] == [(1, None), (1, None)]


@pytest.mark.parametrize("how", ["random", "stratified"])
@pytest.mark.parametrize("m", [1, 4, 7, 16, 29, 30])
def test_blocks_by_hand_and_the_smaller_last_one_by_its_size(m: int, how: str):
    model = small_mlp()
    x, y = domain_data((30,))["art"]
    problem = problem_of(model, (x, y))
    random = np.random.default_rng([5, 0xB10C]).permutation(30)
    order = random if how == "random" else problem.examples.stratified_order(5)
    rises, sizes = [], []
    for start in range(0, 30, m):
        rows = torch.from_numpy(order[start : start + m])
        rises.append(rise(model, x[rows], y[rows], 0.1))
        sizes.append(len(rows))
    (found,) = m_sharpness(problem, m=m, rhos=(0.1,), seed=5, how=how)
    assert found.value == pytest.approx(np.average(rises, weights=sizes), rel=1e-10)
    assert found.n_blocks == len(rises)
    if 30 % m == 0 and m < 30:
        assert found.stderr == pytest.approx(np.std(rises, ddof=1) / np.sqrt(len(rises)), rel=1e-9)


def test_blocks_are_drawn_as_the_papers_draw_them():
    """On average over seeds that of batches drawn at random; stratified blocks are more alike, and lower."""
    model = small_mlp()
    x, y = domain_data((30,))["art"]
    problem = problem_of(model, (x, y))
    g = np.random.default_rng(0)
    drawn = []
    for _ in range(300):
        rows = torch.from_numpy(g.choice(30, 6, replace=False))
        drawn.append(rise(model, x[rows], y[rows], 0.5))
    found = {
        how: [m_sharpness(problem, m=6, rhos=(0.5,), seed=seed, how=how)[0].value for seed in range(40)]
        for how in RULES
    }
    assert np.mean(found["random"]) == pytest.approx(np.mean(drawn), rel=0.03)
    assert np.mean(found["stratified"]) < np.mean(found["random"])


def test_blocks_partition_the_examples():
    parts = blocks(np.arange(10), 4)
    assert [p.tolist() for p in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_exact_maxima_do_not_increase_with_m():
    """Linear losses: one step is the exact maximum, rho |g_k|; a mean of norms exceeds the norm of the mean."""
    torch.manual_seed(0)
    slopes = torch.randn(16, 3).double()

    class Linear(Coordinates):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.w.reshape(-1))[:, None]

    problem = problem_of(Linear(torch.zeros(1, 3).double()), (slopes, torch.zeros(16).double()), lambda o, t: o[:, 0])
    values = [m_sharpness(problem, m=m, rhos=(0.3,))[0].value for m in (1, 2, 4, 8, 16)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(0.3 * slopes.norm(dim=1).mean().item(), rel=1e-10)
    assert values[-1] == pytest.approx(0.3 * slopes.mean(0).norm().item(), rel=1e-10)


def test_a_quadratic_gives_the_rayleigh_quotient():
    """h = rho |g| + rho^2 g'Hg / (2 |g|^2)."""
    curvature = torch.tensor([4.0, 1.0, -2.0], dtype=torch.float64)
    w = torch.tensor([[0.3, -1.0, 0.5]], dtype=torch.float64)
    data = (torch.zeros(6, 1).double(), torch.zeros(6).double())
    problem = problem_of(Coordinates(w), data, lambda o, t: 0.5 * (o.square() * curvature).sum(1))
    g = curvature * w[0]
    expected = 0.2 * g.norm() + 0.02 * (g * curvature * g).sum() / g.square().sum()
    assert m_sharpness(problem, m=6, rhos=(0.2,))[0].value == pytest.approx(expected.item(), rel=1e-10)


def test_no_radius_no_rise_and_a_zero_gradient_none_either():
    problem = problem_of(small_mlp(), domain_data())
    assert m_sharpness(problem, m=4, rhos=(0.0,))[0].value == 0
    flat = problem_of(
        Coordinates(torch.zeros(1, 2).double()),
        (torch.zeros(4, 1).double(), torch.zeros(4).double()),
        lambda o, t: o.square().sum(1),
    )
    for p in ("1", "2", "inf"):
        assert m_sharpness(flat, m=2, rhos=(0.5,), p=p)[0].value == 0


def test_a_mean_only_loss_and_a_dataset_give_the_same():
    data, model = domain_data(), small_mlp()
    a = m_sharpness(problem_of(model, data), m=5, rhos=(0.1, 0.2))
    b = m_sharpness(problem_of(model, data, mean_cross_entropy), m=5, rhos=(0.1, 0.2))
    assert [s.value for s in b] == pytest.approx([s.value for s in a], rel=1e-12)


@pytest.mark.parametrize("m", [8, 30])
def test_blocks_larger_than_memory_are_taken_in_pieces(m: int):
    """`--batch-size` halves itself on every analysis; a block of the whole set is the usual case."""
    model = small_mlp()
    data = domain_data((30,))["art"]
    whole = m_sharpness(problem_of(model, data), m=m, rhos=(0.1,))
    tight = m_sharpness(problem_of(Limited(model, 7), data, batch_size=4), m=m, rhos=(0.1,))
    assert tight[0].value == pytest.approx(whole[0].value, rel=1e-10)


def test_the_model_is_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    model(torch.randn(9, 5).double()).sum().backward()
    before = snapshot(model)
    problem = problem_of(model, domain_data())
    inside = {k: v.clone() for k, v in problem.model.state_dict().items()}
    sharpness(problem, m=(1, 5), rho=(0.1, 3.0), per_domain=True)
    assert_untouched(model, before)
    assert all(torch.equal(v, inside[k]) for k, v in problem.model.state_dict().items())


def test_only_selected_parameters_climb():
    model = small_mlp()
    x, y = domain_data((30,))["art"]
    part = m_sharpness(problem_of(model, (x, y), params="^2"), m=30, rhos=(0.2,))[0].value
    loss, gradient, _ = dense(model, x, y)
    moved = copy.deepcopy(model)
    g = gradient[36:]
    with torch.no_grad():
        step = 0.2 * g / g.norm()
        moved[2].weight += step[:18].view(3, 6)
        moved[2].bias += step[18:]
    assert part == pytest.approx(F.cross_entropy(moved(x), y).item() - loss, rel=1e-10)


# -- the analysis --------------------------------------------------------------------------------------------------


def test_the_table_holds_every_m_and_rho():
    data, model = domain_data(), small_mlp()
    found = sharpness(problem_of(model, data), m=(3, 42), rho=(0.05, 0.2), per_domain=False)
    assert found.data["value"].dims == ("m", "rho")
    rows = {(r["m"], r["rho"]): r for r in found["measures"]}
    assert set(rows) == {(3, 0.05), (3, 0.2), (42, 0.05), (42, 0.2)}
    for (m, rho), row in rows.items():
        alone = m_sharpness(problem_of(model, data), m=m, rhos=(rho,))[0].value
        assert row["value"] == pytest.approx(alone, rel=1e-9)
        assert float(found.data["value"].sel(m=m, rho=rho)) == row["value"]
        assert (row["measure"], row["p"], row["adaptive"]) == ("m-sharpness", "2", False)
    assert rows[42, 0.05]["stderr"] is None
    assert rows[3, 0.05]["n_blocks"] == 14
    assert found["domains"] is None


def test_each_domain_alone():
    data, model = domain_data(), small_mlp()
    found = sharpness(problem_of(model, data), m=(9,), rho=(0.1,), per_domain=True)
    for name, pair in data.items():
        alone = m_sharpness(problem_of(model, {name: pair}), m=9, rhos=(0.1,))[0].value
        assert found["domains"][name]["measures"][0]["value"] == pytest.approx(alone, rel=1e-12)
        assert float(found.data["domain_value"].sel(domain=name, m=9, rho=0.1)) == pytest.approx(alone, rel=1e-12)
    assert found["domains"]["art"]["measures"][0]["value"] == pytest.approx(rise(model, *data["art"], 0.1), rel=1e-10)


def test_default_block_sizes_per_domain_are_those_that_fit():
    found = sharpness(problem_of(small_mlp(), domain_data()), per_domain=True)
    assert [r["m"] for r in found["measures"]] == [1, 4, 16]
    assert [r["m"] for r in found["domains"]["art"]["measures"]] == [1, 4]


def test_refusals():
    problem = problem_of(small_mlp(), domain_data())
    with pytest.raises(UsageError, match=r"m=43 exceeds the 42 examples.*`m=`") as caught:
        sharpness(problem, m=(43,))
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r"unknown measure 'm-sharp'.*did you mean 'm-sharpness'"):
        SharpnessSpec(measure=("m-sharp",))
    blown = problem_of(
        Coordinates(torch.ones(1, 1).double()),
        (torch.zeros(3, 1).double(), torch.zeros(3).double()),
        lambda o, t: (o.sum(1) * 300).exp(),
    )
    with pytest.raises(NumericalError, match=r"m=3, rho=5 is inf.*`rho=`") as caught:
        sharpness(blown, m=(3,), rho=(5.0,))
    assert caught.value.exit_code == 4


# -- published control (reference/studies.md, C2) --------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "plain"), [(1, 0.00131), (2, 0.00122), (5, 0.00290), (10, 0.00631)])
def test_rescaling_moves_the_plain_value_and_not_the_adaptive_one(alpha: float, plain: float):
    model, x, y = relu_study_net(alpha)
    found = sharpness(problem_of(model, (x, y)), m=(64,), rho=(0.05,))["measures"][0]["value"]
    assert found == pytest.approx(rise(model, x, y, 0.05), rel=1e-9)
    assert found == pytest.approx(plain, rel=0.25)  # the table's training is not specified to the digit
    adaptive = sharpness(problem_of(model, (x, y)), m=(64,), rho=(0.5,), adaptive=True)["measures"][0]["value"]
    reference = sharpness(problem_of(*_study(1)), m=(64,), rho=(0.5,), adaptive=True)["measures"][0]["value"]
    assert adaptive == pytest.approx(reference, rel=1e-10)
    assert adaptive == pytest.approx(0.02037, rel=0.15)


def _study(alpha: float) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    model, x, y = relu_study_net(alpha)
    return model, (x, y)
