from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import domain_data, problem_of, small_mlp
from torch import Tensor, nn

from landscape.problem.problem import Problem
from landscape.surfaces.directions.direction import Direction
from landscape.surfaces.directions.random import draw


class Zoo(nn.Module):
    """One layer of every kind that has filters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, groups=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.linear = nn.Linear(4 * 25, 3)
        self.table = nn.Embedding(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(self.norm(self.conv(x)).tanh())
        return self.linear(h.flatten(1)) + self.table(torch.zeros(len(x), dtype=torch.long))


@pytest.fixture(scope="module")
def zoo() -> Problem:
    torch.manual_seed(0)
    model = Zoo().double()
    with torch.no_grad():
        model.conv.weight[1].zero_()
    return problem_of(model, (torch.randn(4, 2, 4, 4).double(), torch.arange(4) % 3))


def named(
    problem: Problem, kind: str, seed: int = 3, axis: int = 0
) -> tuple[Direction, dict[str, Tensor], dict[str, Tensor]]:
    direction = draw(problem, kind, seed, axis)
    weights = {n: p.detach() for n, p in zip(problem.space.names, problem.space.tensors, strict=True)}
    return direction, dict(zip(problem.space.names, direction.tensors, strict=True)), weights


def test_each_filter_has_the_norm_of_the_networks_filter(zoo: Problem):
    _, d, w = named(zoo, "filter")
    for name in ("conv.weight", "linear.weight", "table.weight"):
        for found, expected in zip(d[name], w[name], strict=True):
            assert float(found.norm()) == pytest.approx(float(expected.norm()), rel=1e-6)
    assert float(d["conv.weight"][1].norm()) == 0
    # A transposed convolution's weight is (in, out/groups, ...): output channel (g, j) is weight[3g : 3g+3, j].
    for g in range(2):
        for j in range(2):
            a, b = d["up.weight"][3 * g : 3 * g + 3, j], w["up.weight"][3 * g : 3 * g + 3, j]
            assert float(a.norm()) == pytest.approx(float(b.norm()), rel=1e-6)


def test_each_layer_has_the_norm_of_the_networks_layer(zoo: Problem):
    _, d, w = named(zoo, "layer")
    for name, value in w.items():
        if value.ndim > 1:
            assert float(d[name].norm()) == pytest.approx(float(value.norm()), rel=1e-9)
    filters = d["linear.weight"].norm(dim=1) / w["linear.weight"].norm(dim=1)
    assert float(filters.std()) > 0.01  # not filter by filter


def test_whole_norms(zoo: Problem):
    moved = torch.cat([p.detach().reshape(-1) for p in zoo.space.tensors if p.ndim > 1])
    assert named(zoo, "model")[0].norm == pytest.approx(float(moved.norm()), rel=1e-12)
    assert named(zoo, "gaussian")[0].norm == pytest.approx(np.sqrt(len(moved)), rel=0.2)
    assert named(zoo, "unit")[0].norm == pytest.approx(1, rel=1e-12)
    assert named(zoo, "layer")[0].norm == pytest.approx(float(moved.norm()), rel=1e-9)
    assert named(zoo, "filter")[0].norm == pytest.approx(float(moved.norm()), rel=1e-6)


@pytest.mark.parametrize("kind", ["filter", "layer", "model", "gaussian", "unit"])
def test_one_dimensional_parameters_stay(zoo: Problem, kind: str):
    _, d, _ = named(zoo, kind)
    fixed = [n for n, t in d.items() if t.ndim <= 1]
    assert fixed == ["conv.bias", "norm.weight", "norm.bias", "up.bias", "linear.bias"]
    assert all(float(d[n].abs().max()) == 0 for n in fixed)
    assert all(bool(torch.isfinite(t).all()) for t in d.values())


def test_buffers_have_no_direction(zoo: Problem):
    assert not any("running" in n for n in zoo.space.names)


@pytest.mark.parametrize("kind", ["filter", "layer", "model", "gaussian", "unit"])
def test_the_same_seed_is_the_same_direction(zoo: Problem, kind: str):
    state = torch.get_rng_state()
    a, b = (torch.cat([t.reshape(-1) for t in draw(zoo, kind, 3, 0).tensors]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a, b)
    for other in (draw(zoo, kind, 4, 0), draw(zoo, kind, 3, 1)):
        assert abs(draw(zoo, kind, 3, 0).cosine(other)) < 0.5


def test_networks_of_one_shape_share_the_numbers_before_scaling():
    """Compared checkpoints must differ in scale only, filter by filter."""
    data = domain_data()
    a = named(problem_of(small_mlp(seed=0), data), "filter")[1]["0.weight"]
    b = named(problem_of(small_mlp(seed=1), data), "filter")[1]["0.weight"]
    for x, y in zip(a, b, strict=True):
        assert torch.allclose(x / x.norm(), y / y.norm(), atol=1e-9)
    assert not torch.allclose(a, b)


def test_a_subset_of_parameters_gets_the_same_numbers():
    data = domain_data()
    whole = named(problem_of(small_mlp(), data), "filter")[1]["2.weight"]
    part = named(problem_of(small_mlp(), data, params="^2"), "filter")[1]["2.weight"]
    assert torch.equal(whole, part)


def test_precision_does_not_change_the_draw():
    data = domain_data()
    wide = named(problem_of(small_mlp(), data), "unit")[1]["0.weight"]
    single = named(problem_of(small_mlp(), data, dtype="float32"), "unit")[1]["0.weight"]
    assert single.dtype == torch.float32
    assert torch.allclose(wide, single.double(), rtol=1e-6)


def test_entries_are_gaussian_and_axes_are_nearly_orthogonal():
    problem = problem_of(nn.Linear(60, 50).double(), (torch.zeros(3, 60).double(), torch.arange(3)))
    cosines = []
    for seed in range(30):
        first, second = draw(problem, "unit", seed, 0), draw(problem, "unit", seed, 1)
        cosines.append(first.cosine(second))
    entries = torch.cat([draw(problem, "unit", s, 0).tensors[0].reshape(-1) for s in range(30)]) * np.sqrt(3000)
    assert abs(float(entries.mean())) < 5 / np.sqrt(90000)
    assert float(entries.var()) == pytest.approx(1, abs=0.03)
    assert float((entries**4).mean()) == pytest.approx(3, abs=0.2)
    assert max(map(abs, cosines)) < 5 / np.sqrt(3000)
    assert np.std(cosines) == pytest.approx(1 / np.sqrt(3000), rel=0.4)


def test_cosine_by_hand():
    a = Direction("unit", [torch.tensor([1.0, 0.0]), torch.tensor([[2.0]])])
    b = Direction("unit", [torch.tensor([1.0, 1.0]), torch.tensor([[0.0]])])
    zero = Direction("unit", [torch.zeros(2), torch.zeros(1, 1)])
    assert a.cosine(b) == pytest.approx(1 / np.sqrt(10))
    assert a.cosine(a) == pytest.approx(1)
    assert a.cosine(zero) == 0


def test_a_direction_does_not_depend_on_where_the_network_was_left(zoo: Problem):
    """Slices are drawn between points: their scale is that of the checkpoint, not of the last point."""
    expected = draw(zoo, "filter", 3, 0).tensors
    with zoo.temporary_weights() as tensors:
        for tensor in tensors:
            tensor.add_(1.0)
        found = draw(zoo, "filter", 3, 0).tensors
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
