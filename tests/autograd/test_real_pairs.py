"""Networks that keep complex numbers as real pairs: ``view_as_complex`` works wherever the pairs lie in memory."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from complex_twins import dense_of_pairs
from torch import Tensor, nn

from landscape.autograd.substitutes import twice_differentiable
from landscape.curvature.hessian import hessian
from landscape.domainwise.domains import domains
from landscape.measures.engine.norm_ball import NormBall
from landscape.measures.m_sharpness import block_sharpness
from landscape.measures.sharpness import sharpness
from landscape.problem.problem import Problem
from landscape.surfaces.directions.snapshots import Snapshot
from landscape.surfaces.path import path
from landscape.surfaces.surface import surface


class Filter(nn.Module):
    """A spectral filter kept as real and imaginary parts, behind ``before`` other numbers."""

    def __init__(self, before: int, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.before = nn.Parameter(torch.rand(before, generator=g))
        self.pairs = nn.Parameter(torch.randn(4, 2, generator=g) * 0.5)
        self.linear = nn.Linear(6, 1)
        with torch.no_grad():
            for p in self.linear.parameters():
                p.copy_(torch.randn(p.shape, generator=g))

    def filter(self) -> Tensor:
        return torch.view_as_complex(self.pairs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.irfft(torch.fft.rfft(x * (1 + self.before.sum())) * self.filter(), n=6)
        return self.linear(torch.tanh(x)).squeeze(1)


class Shaped(Filter):
    """The same with pairs only after a change of shape."""

    def __init__(self, before: int, seed: int = 0) -> None:
        super().__init__(before, seed)
        self.pairs = nn.Parameter(self.pairs.detach().reshape(2, 4))

    def filter(self) -> Tensor:
        return torch.view_as_complex(self.pairs.view(4, 2))


class Sliced(Filter):
    """The same with pairs that begin inside a parameter: torch alone has no double backward there."""

    def __init__(self, before: int, seed: int = 0) -> None:
        super().__init__(before, seed)
        self.pairs = nn.Parameter(torch.cat([torch.zeros(1), self.pairs.detach().reshape(-1)]))

    def filter(self) -> Tensor:
        return torch.view_as_complex(self.pairs[1:].clone().view(4, 2))


def data(n: int = 12) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=g), torch.randn(n, generator=g)


def problem_of(model: nn.Module, dtype: str = "float64", **options: Any) -> Problem:
    return Problem(model, data(), "mse", device="cpu", dtype=dtype, **options)


def truth(before: int) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian in float64 with every parameter in memory of its own."""
    x, y = (t.double() for t in data())
    return dense_of_pairs(Filter(before).double(), x, y, F.mse_loss)


@pytest.mark.parametrize("before", [1, 2], ids=["odd place", "even place"])
@pytest.mark.parametrize("kind", [Filter, Shaped])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_are_right_wherever_the_pairs_lie(kind: type[Filter], before: int, dtype: str):
    gradient, matrix = truth(before)
    problem = problem_of(kind(before), dtype, batch_size=5)
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == "float64" else {"rtol": 2e-4, "atol": 2e-5}
    torch.testing.assert_close(problem.gradient().double(), gradient, **tolerance)
    n = problem.n_parameters
    long = torch.randn(n + 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for vector in (long[:n], long[1:]):  # the second begins at an odd place itself
        product = problem.hvp(vector.to(problem.dtype)) if dtype == "float32" else problem.hvp(vector)
        torch.testing.assert_close(product.double(), matrix @ vector, **tolerance)
    values = torch.linalg.eigvalsh(matrix).flip(0)[:2]
    np.testing.assert_allclose(hessian(problem, top=2, tol=1e-5)["eigenvalues"], values, rtol=1e-5)


def test_pairs_inside_a_parameter():
    _, matrix = truth(1)
    values = torch.linalg.eigvalsh(matrix).flip(0)[:2]
    problem = problem_of(Sliced(1))
    np.testing.assert_allclose(hessian(problem, top=2, tol=1e-6)["eigenvalues"], values, rtol=1e-9)
    assert not problem.replaced
    vector = torch.randn(problem.n_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    kept = torch.tensor([i for i in range(len(vector)) if i != 1])  # the entry before the pairs, which does nothing
    torch.testing.assert_close(problem.hvp(vector)[kept], matrix @ vector[kept], rtol=1e-10, atol=1e-12)


def test_what_is_written_into_the_complex_view_is_seen_in_the_pairs():
    class Written(Filter):
        def forward(self, x: Tensor) -> Tensor:
            pairs = self.pairs * 1.0
            torch.view_as_complex(pairs).mul_(2j)  # also changes the pairs
            return self.linear(torch.tanh(x[:, :4] * pairs.prod(1))[:, [0, 1, 2, 3, 0, 1]]).squeeze(1)

    class Plain(Filter):
        def forward(self, x: Tensor) -> Tensor:
            pairs = torch.stack([-2 * self.pairs[:, 1], 2 * self.pairs[:, 0]], 1)
            return self.linear(torch.tanh(x[:, :4] * pairs.prod(1))[:, [0, 1, 2, 3, 0, 1]]).squeeze(1)

    ours, plain = problem_of(Written(1)), problem_of(Plain(1))
    vector = torch.randn(ours.n_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert ours.loss() == pytest.approx(plain.loss(), rel=1e-12)
    torch.testing.assert_close(ours.hvp(vector), plain.hvp(vector), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("operator", ["ggn", "empirical-fisher", "fisher", "gradient-covariance"])
@pytest.mark.parametrize("kind", [Filter, Sliced])
def test_other_matrices_at_odd_places(kind: type[Filter], operator: str):
    found = [hessian(problem_of(kind(b)), top=1, tol=1e-7, operator=operator)["eigenvalues"] for b in (1, 1)]
    plain = hessian(problem_of(Filter(1)), top=1, tol=1e-7, operator=operator)["eigenvalues"]
    assert found[0] == found[1] == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("kind", [Filter, Shaped, Sliced])
def test_stacked_blocks_equal_looped_ones(kind: type[Filter], before: int):
    problem = problem_of(kind(before))
    ball = NormBall(0.1)
    for m in (1, 4):
        values = [block_sharpness(problem, [ball], m=m, way=way)[0].value for way in ("loop", "stack", None)]
        assert values[0] == pytest.approx(values[1], rel=1e-9)
        assert values[0] == pytest.approx(values[2], rel=1e-9)


def test_sharpness_of_one_example_is_that_of_plain_torch():
    model, (x, y) = Filter(1).double(), tuple(t.double() for t in data())
    rises = []
    for i in range(len(x)):
        net = copy.deepcopy(model)
        loss = (net(x[i : i + 1]) - y[i : i + 1]).square().mean()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(p.grad * 0.05 / norm)
            rises.append(float((net(x[i : i + 1]) - y[i : i + 1]).square().mean()) - float(loss.detach()))
    for problem in (problem_of(Filter(1)), problem_of(Sliced(1))):
        found = sharpness(problem, m=(1,), rho=(0.05,))["measures"][0]["value"]
        assert found == pytest.approx(np.mean(rises), rel=1e-9)


@pytest.mark.parametrize("kind", [Filter, Shaped, Sliced])
def test_surfaces_paths_and_domains_at_odd_places(kind: type[Filter]):
    domain = {"a": data(6), "b": tuple(t + 0.1 for t in data(6))}
    ours = Problem(kind(1), domain, "mse", device="cpu", dtype="float64")
    other = Snapshot.of(Problem(kind(1, seed=3), domain, "mse", device="cpu", dtype="float64"))
    found = surface(ours, dim=2, points=3, direction=("eigvec:1", "grad"), per_domain=True)
    assert float(found.data["loss"][1, 1]) == pytest.approx(ours.loss(), rel=1e-12)
    assert path(ours, other, points=3, kind="bezier", steps=3, training=ours)["nan_cells"] == 0
    looked = domains(ours, curvature=True, sharpness=True)["domains"]
    plain = Problem(Filter(1), domain, "mse", device="cpu", dtype="float64")
    for name, row in domains(plain, curvature=True, sharpness=True)["domains"].items():
        assert looked[name]["lambda_1"] == pytest.approx(row["lambda_1"], rel=1e-6)
        assert looked[name]["m_sharpness"] == pytest.approx(row["m_sharpness"], rel=1e-9)


def test_views_without_gradients_are_left_alone():
    with torch.no_grad(), twice_differentiable(set()):
        assert torch.view_as_complex(nn.Parameter(torch.ones(3, 2))).equal(torch.full((3,), 1 + 1j))
    leaf = nn.Parameter(torch.ones(3, 2))
    for _ in range(2):
        with twice_differentiable(set()):
            torch.view_as_complex(leaf).abs().sum().backward()
    assert not leaf._backward_hooks
