from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    Coordinates,
    Limited,
    assert_untouched,
    domain_data,
    mean_cross_entropy,
    problem_of,
    small_mlp,
    snapshot,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from landscape.base.errors import NumericalError
from landscape.results.result import Result
from landscape.surfaces.directions.direction import Direction
from landscape.surfaces.directions.random import draw
from landscape.surfaces.evaluate.grid import axis_values
from landscape.surfaces.surface import surface

NO_INPUT = (torch.zeros(3, 1).double(), torch.zeros(3).double())


def along(*tensors: Tensor) -> list[Direction]:
    """Directions of a `Coordinates` model."""
    return [Direction(f"e{i}", [t.reshape(1, -1)], axis=i) for i, t in enumerate(tensors)]


# -- axes ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(points=st.integers(3, 401), reach=st.floats(1e-6, 1e6))
def test_axes_are_exactly_symmetric_and_hold_their_centre(points: int, reach: float):
    values = axis_values(points, reach)
    assert len(values) == points
    assert np.array_equal(values, -values[::-1])
    assert bool((np.diff(values) > 0).all())
    assert values[-1] == pytest.approx(reach, rel=1e-15)
    assert np.diff(values) == pytest.approx(2 * reach / (points - 1), rel=1e-9)
    if points % 2:
        assert values[points // 2] == 0
    else:
        assert np.abs(values).min() == pytest.approx(reach / (points - 1))


@pytest.mark.parametrize("reach", [0.1, 0.3, 0.7, 1.0, 1.7])
def test_where_linspace_fails(reach: float):
    assert all(axis_values(n, reach)[n // 2] == 0 for n in range(3, 202, 2))


# -- coordinates and curvature -----------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [4, 5])
def test_every_cell_reports_its_own_displacement(points: int):
    """The loss is 10 dx + 1000 dy (weights start elsewhere): a transposed, mirrored or walked grid cannot pass."""
    start = torch.tensor([[0.5, -2.0, 3.0]], dtype=torch.float64)
    axes = along(torch.tensor([1.0, 0, 0]).double(), torch.tensor([0, 0, 1.0]).double())
    problem = problem_of(Coordinates(start), NO_INPUT, lambda o, t: 10 * (o[:, 0] - 0.5) + 1000 * (o[:, 2] - 3.0))
    found = surface(problem, points=points, range=0.75, directions=axes)
    loss = found.data["loss"]
    assert loss.dims == ("y", "x")
    assert np.allclose(
        loss.values, 10 * found.data["x"].values[None, :] + 1000 * found.data["y"].values[:, None], atol=1e-11
    )
    assert found.data["x"].values.tolist() == axis_values(points, 0.75).tolist()
    assert found["shape"] == [points, points]
    assert found["plain_loss"] == found["center_loss"] == 0


@pytest.mark.parametrize("points", [4, 7])
def test_every_point_of_a_line_too(points: int):
    axes = along(torch.tensor([0, 2.0, 0]).double())
    problem = problem_of(Coordinates(torch.ones(1, 3).double()), NO_INPUT, lambda o, t: o[:, 1] - 1)
    found = surface(problem, dim=1, points=points, range=2.0, directions=axes)
    assert found.data["loss"].dims == ("x",)
    assert np.allclose(found.data["loss"].values, 2 * axis_values(points, 2.0), atol=1e-14)


def test_slices_of_a_quadratic_have_its_curvature():
    """L = w'Aw / 2: along eigenvectors the second difference is the eigenvalue, along e_i it is A_ii."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 4))
    a = torch.from_numpy(a + a.T)
    values, vectors = torch.linalg.eigh(a)
    problem = problem_of(
        Coordinates(torch.from_numpy(rng.standard_normal((1, 4)))), NO_INPUT, lambda o, t: 0.5 * (o @ a * o).sum(1)
    )
    for direction, expected in [
        *zip(vectors.T, values, strict=True),
        *zip(torch.eye(4).double(), a.diag(), strict=True),
    ]:
        axes = along(direction)
        loss = surface(problem, dim=1, points=3, range=0.5, directions=axes).data["loss"].values
        assert (loss[0] - 2 * loss[1] + loss[2]) / 0.25 == pytest.approx(float(expected), abs=1e-9)


def test_expected_curvature_along_random_axes():
    """unit: E[d'Hd] = tr(H)/N; filter: sum of |w_l|^2 / n_l tr(H_ll) (reference 4.1). 400 directions each."""
    curvature = torch.linspace(0.1, 5, 24, dtype=torch.float64)
    torch.manual_seed(0)
    weights = torch.randn(4, 6).double() * torch.tensor([1.0, 2, 3, 4]).double()[:, None]
    problem = problem_of(Coordinates(weights), NO_INPUT, lambda o, t: 0.5 * (o.square() * curvature).sum(1))
    blocks = curvature.view(4, 6)
    expected = {
        "unit": float(curvature.mean()),
        "model": float(weights.square().sum() * curvature.mean()),
        "filter": float((weights.square().sum(1) / 6 * blocks.sum(1)).sum()),
    }
    for kind, value in expected.items():
        samples = []
        for seed in range(400):
            d = draw(problem, kind, seed, 0).tensors[0].reshape(-1)
            samples.append(float(d @ (curvature * d)))
        assert np.mean(samples) == pytest.approx(value, abs=4 * np.std(samples) / 20), kind


# -- a real network ------------------------------------------------------------------------------------------------


def batchnorm_net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)).double()
    model(torch.randn(40, 5).double() * 3).sum().backward()
    return model.train()


@pytest.mark.parametrize("points", [3, 4])
def test_each_cell_is_a_plain_evaluation_there(points: int):
    data, model = domain_data(), small_mlp()
    found = surface(problem_of(model, data, batch_size=8), points=points, range=0.8, seed=2)
    vectors = found.vectors
    for j, y in enumerate(found.data["y"].values):
        for i, x in enumerate(found.data["x"].values):
            moved = {k: p + x * vectors[f"d1.{k}"] + y * vectors[f"d2.{k}"] for k, p in model.state_dict().items()}
            outputs = {n: torch.func.functional_call(model, moved, (inputs,)) for n, (inputs, _) in data.items()}
            losses = {n: F.cross_entropy(outputs[n], data[n][1]).item() for n in data}
            hits = sum(int((outputs[n].argmax(1) == data[n][1]).sum()) for n in data)
            mean = sum(len(data[n][1]) * losses[n] for n in data) / 42
            assert float(found.data["loss"][j, i]) == pytest.approx(mean, rel=1e-12)
            assert float(found.data["accuracy"][j, i]) == pytest.approx(hits / 42, rel=1e-12)
            assert found.data["domain_loss"][:, j, i].values == pytest.approx(list(losses.values()), rel=1e-12)
            assert float(found.data["domain_variance"][j, i]) == pytest.approx(
                np.var(list(losses.values())), rel=1e-10
            )
    assert found.data["domain_loss"].dims == ("domain", "y", "x")
    assert found.data["domain"].values.tolist() == list(data)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{"points": 5}, {"points": 7, "dim": 1, "range": 0.1}])
def test_the_centre_cell_is_bit_equal_to_the_plain_evaluation(dtype: str, options: dict):
    problem = problem_of(batchnorm_net(), domain_data(), batch_size=8, dtype=dtype)
    found = surface(problem, **options)
    middle = found.data["loss"].sel(x=0.0, **({"y": 0.0} if "dim" not in options else {}))
    assert float(middle) == problem.loss() == found["plain_loss"] == found["center_loss"]
    assert found["restored"] is True


def test_batchnorm_statistics_and_the_model_are_left_alone():
    model = batchnorm_net()
    before = snapshot(model)
    problem = problem_of(model, domain_data(), batch_size=8)
    inside = {k: v.clone() for k, v in problem.model.state_dict().items()}
    found = surface(problem, points=5, range=1.0)
    assert_untouched(model, before)
    assert all(torch.equal(v, inside[k]) for k, v in problem.model.state_dict().items())
    assert found["bn_policy"] == "keep"
    assert found["batchnorm_layers"] == 1
    assert found["nan_cells"] == 0
    assert not any("running" in name for name in found.vectors)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_also_when_the_loss_raises_in_the_middle(error: type[BaseException]):
    calls = []

    def failing(output: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 40:
            raise error("cell 40")
        return F.cross_entropy(output, target, reduction="none")

    model = batchnorm_net()
    before = snapshot(model)
    problem = problem_of(model, domain_data(), failing)
    inside = {k: v.clone() for k, v in problem.model.state_dict().items()}
    with pytest.raises(error, match="cell 40"):
        surface(problem, points=9)
    assert_untouched(model, before)
    assert all(torch.equal(v, inside[k]) for k, v in problem.model.state_dict().items())


def test_values_that_are_no_numbers_are_kept_and_counted(tmp_path):
    axes = along(torch.tensor([1.0, 0]).double(), torch.tensor([0, 1.0]).double())

    def loss(output: Tensor, target: Tensor) -> Tensor:
        x, y = output[:, 0] - 1, output[:, 1]
        value = torch.where(x > 0.9, torch.nan, -(x**2)) + torch.where(y > 0.9, torch.inf, 0.0)
        return torch.where(y < -0.9, -torch.inf, value)

    found = surface(
        problem_of(Coordinates(torch.tensor([[1.0, 0]]).double()), NO_INPUT, loss), points=3, directions=axes
    )
    expected = [[-math.inf] * 3, [-1, 0, math.nan], [math.inf, math.inf, math.nan]]
    assert np.array_equal(found.data["loss"].values, np.array(expected), equal_nan=True)
    assert (found["nan_cells"], found["infinite_cells"]) == (2, 5)
    again = Result.load(found.save(tmp_path / "surface.nc"))
    assert np.array_equal(again.data["loss"].values, np.array(expected), equal_nan=True)
    assert "NaN" not in json.dumps(again.to_json(), allow_nan=False)


@pytest.mark.parametrize("kind", ["filter", "layer", "model", "unit"])
def test_weights_of_zero_are_weights(kind: str):
    problem = problem_of(Coordinates(torch.zeros(2, 2).double()), NO_INPUT, lambda o, t: (o + 1).square().sum(1))
    found = surface(problem, points=3, direction=(kind,))
    assert found["center_loss"] == 4
    assert np.isfinite(found.data["loss"]).all()
    assert found["axes"][0]["norm"] == pytest.approx(1 if kind == "unit" else 0)


def test_a_centre_that_is_no_number_is_refused():
    with pytest.raises(NumericalError, match="the loss at the weights is nan") as caught:
        surface(
            problem_of(Coordinates(torch.zeros(1, 2).double()), NO_INPUT, lambda o, t: o.sum(1) * torch.nan), points=3
        )
    assert caught.value.exit_code == 4


def test_a_random_forward_is_noticed():
    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(F.dropout(x, 0.5, training=True))

    with pytest.raises(NumericalError, match=r"two passes .*differ by .*Always.*random"):
        surface(problem_of(Always(), domain_data()), points=3)


def test_same_seed_same_surface_and_memory_changes_nothing():
    data, model = domain_data(), small_mlp()
    a = surface(problem_of(model, data), points=4, seed=1)
    b = surface(problem_of(model, data), points=4, seed=1)
    c = surface(problem_of(model, data), points=4, seed=2)
    d = surface(problem_of(Limited(model, 5), data), points=4, seed=1)
    e = surface(problem_of(model, data, mean_cross_entropy, batch_size=8), points=4, seed=1)
    assert np.array_equal(a.data["loss"], b.data["loss"])
    assert not np.allclose(a.data["loss"], c.data["loss"])
    assert e.data["loss"].values == pytest.approx(a.data["loss"].values, rel=1e-12)
    assert e.data["domain_loss"].values == pytest.approx(a.data["domain_loss"].values, rel=1e-12)
    assert d["shape"] == a["shape"]  # its parameters have other names, so other directions
    assert np.isfinite(d.data["loss"]).all()


def test_repeated_slices_are_independent_directions():
    found = surface(problem_of(small_mlp(), domain_data()), dim=1, points=5, repeats=4)
    assert found.data["loss"].dims == ("repeat", "x")
    assert found["shape"] == [4, 5]
    curves = found.data["loss"].values
    assert len({tuple(c) for c in curves}) == 4
    assert len(set(curves[:, 2])) == 1
    alone = surface(problem_of(small_mlp(), domain_data()), dim=1, points=5)
    assert np.array_equal(alone.data["loss"].values, curves[0])


def test_the_record_says_what_was_moved():
    problem = problem_of(batchnorm_net(), domain_data())
    found = surface(problem, points=3, direction=("layer", "unit"), seed=4)
    assert [(a["direction"], a["seed"], a["axis"]) for a in found["axes"]] == [("layer", 4, 0), ("unit", 4, 1)]
    assert found["axes"][1]["norm"] == pytest.approx(1)
    assert found["fixed_parameters"] == 6 + 6 + 6 + 3
    assert found["n_parameters"] == problem.n_parameters
    d1, d2 = (torch.cat([found.vectors[f"{d}.{k}"].reshape(-1) for k in problem.space.names]) for d in ("d1", "d2"))
    assert found["cosine"] == pytest.approx(float(d1 @ d2 / (d1.norm() * d2.norm())), abs=1e-12)
    assert found["relative_norm"] == pytest.approx(float(d1.norm() / problem.weights.norm()), rel=1e-12)
