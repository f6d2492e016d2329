"""Where is looked, and what is read there: grids, ranges, adaptive refinement, metrics, waiting for the device."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import Coordinates, domain_data, problem_of, small_mlp
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.specs import SurfaceSpec
from landscape.surfaces.directions.direction import Direction
from landscape.surfaces.evaluate import adaptive
from landscape.surfaces.evaluate.auto_range import chance_loss, find_reach
from landscape.surfaces.evaluate.evaluator import evaluating
from landscape.surfaces.evaluate.grid import covering_values, grid_passes
from landscape.surfaces.evaluate.row_cache import RowCache
from landscape.surfaces.surface import surface

NO_INPUT = (torch.zeros(3, 1).double(), torch.zeros(3).double())


@pytest.mark.parametrize(("x", "y"), [
    (np.linspace(0, 1, 3), np.linspace(-1, 1, 5)),
    (np.linspace(-2, 1, 6), np.linspace(0, 3, 4)),
    (np.array([1.0, 0.5, -3.0]), np.array([2.0, -1.0])),
])  # fmt: skip
def test_grids_that_are_not_square_or_start_at_zero_or_run_backwards(x, y):
    problem = problem_of(
        Coordinates(torch.zeros(1, 2).double()), NO_INPUT, lambda o, t: 10 * o[:, 0] + 1000 * o[:, 1]
    )
    axes = [Direction("a", [torch.tensor([[1.0, 0]]).double()]), Direction("b", [torch.tensor([[0, 1.0]]).double()])]
    with evaluating(problem) as walker:
        passes = grid_passes(walker, SurfaceSpec(), x, y, axes, RowCache())
    assert passes.evaluated is None
    loss = passes.sums[..., 0, 0] / passes.sums[..., 2, 0]
    assert loss == pytest.approx(10 * x[None, :] + 1000 * y[:, None], abs=1e-10)
    assert walker.forwards == len(x) * len(y)


def test_values_that_cover_places():
    values = covering_values(11, [2.0, -1.0, 0.5])
    assert (values[0], values[-1], len(values)) == (pytest.approx(-1.6), pytest.approx(2.6), 11)
    assert covering_values(3, [4.0, 4.0]).tolist() == pytest.approx([3.8, 4.0, 4.2])


# -- range ----------------------------------------------------------


def test_a_range_ends_where_the_loss_is_at_chance():
    reach = find_reach(lambda x: 3 * x**2 if x > 0 else 0.5 * x**2, 2.0, 0.01)
    assert math.sqrt(2 / 3) <= reach.plus <= 1.05 * math.sqrt(2 / 3)
    assert 2 <= reach.minus <= 2 * 1.05
    assert reach.value == reach.minus
    assert not reach.capped
    assert len(reach.probes) < 40
    assert all(loss == pytest.approx(3 * x**2 if x > 0 else 0.5 * x**2) for x, loss in reach.probes)


def test_a_loss_that_is_no_number_has_crossed_and_a_flat_one_never_does():
    wall = find_reach(lambda x: math.nan if x > 0.3 else 0.0, 1.0, 0.01)
    assert 0.3 < wall.plus <= 0.3 * 1.05
    assert wall.capped
    assert wall.minus >= 0.01 * 2e5
    assert find_reach(lambda x: 5.0, 1.0, 0.01).value < 1e-9


def test_chance_is_that_of_the_number_of_classes():
    assert chance_loss(0.1, 10) == pytest.approx(0.1 + math.log(10))
    assert chance_loss(0.5, None) == 1.0
    assert chance_loss(0.0, None) == 1.0


def test_the_surface_reaches_chance_at_its_edges():
    problem = problem_of(small_mlp(), domain_data())
    found = surface(problem, dim=1, points=9, range="auto")
    edges = found.data["loss"].values[[0, -1]]
    assert edges.max() >= found["range_search"][0]["threshold"] * 0.98
    assert found["range"][0] == pytest.approx(float(found.data["x"][-1]))
    assert found["range_search"][0]["threshold"] == pytest.approx(found["plain_loss"] + math.log(3))
    both = surface(problem, points=3, range="auto", direction=("filter", "unit"))
    assert both["range"][0] != both["range"][1]


# -- adaptive grids ----------------------------------------------------------


def cusp(x: Tensor, y: Tensor) -> Tensor:
    """What loss surfaces look like: a quadratic valley on a small floor, and a wall."""
    return 0.01 + 2 * (x - 0.13) ** 2 + 5 * (y + 0.07) ** 2 + 30 * torch.relu(x + y - 0.9) ** 2


def plane_problem():
    problem = problem_of(Coordinates(torch.zeros(1, 2).double()), NO_INPUT, lambda o, t: cusp(o[:, 0], o[:, 1]))
    axes = [Direction("a", [torch.tensor([[1.0, 0]]).double()]), Direction("b", [torch.tensor([[0, 1.0]]).double()])]
    return problem, axes


def test_two_fifths_of_the_points_are_as_accurate_as_all():
    from scipy.interpolate import RegularGridInterpolator

    points = 21
    problem, axes = plane_problem()
    fine = surface(problem, points=2 * points - 1, directions=axes)
    truth = np.log10(fine.data["loss"].values)
    regular = surface(problem, points=points, directions=axes)
    places = np.stack(np.meshgrid(fine.data["y"], fine.data["x"], indexing="ij"), -1)
    known = (regular.data["y"].values, regular.data["x"].values)
    own = np.abs(RegularGridInterpolator(known, np.log10(regular.data["loss"].values))(places) - truth).max()
    found = surface(problem, points=points, adaptive_grid=True, directions=axes)
    assert found["evaluated_points"] <= 0.4 * points**2
    assert found["evaluated_points"] == int(found.data["evaluated"].sum())
    assert found.data["x"].values.tolist() == fine.data["x"].values.tolist()
    error = np.abs(np.log10(found.data["loss"].values) - truth)
    assert error.max() <= own
    assert error[found.data["evaluated"].values].max() < 1e-12  # evaluated points are themselves
    assert float(found.data["loss"].sel(x=0.0, y=0.0)) == pytest.approx(found["plain_loss"], rel=1e-12)


def test_an_adaptive_grid_keeps_what_is_no_number():
    def loss(o: Tensor, t: Tensor) -> Tensor:
        return torch.where(o[:, 0] > 0.5, torch.inf, cusp(o[:, 0], o[:, 1]))

    problem = problem_of(Coordinates(torch.zeros(1, 2).double()), NO_INPUT, loss)
    found = surface(problem, points=21, adaptive_grid=True, directions=plane_problem()[1])
    values, x = found.data["loss"].values, found.data["x"].values
    assert np.isfinite(values[:, x <= 0.4]).all()
    assert not np.isfinite(values[:, x > 0.6]).any()
    assert found["infinite_cells"] == int(np.isinf(values[found.data["evaluated"].values]).sum()) > 0
    near = found.data["evaluated"].values[:, (x > 0.39) & (x < 0.61)].mean()
    far = found.data["evaluated"].values[:, x > 0.71].mean()
    assert near > far  # the edge is looked at more closely


def test_losses_that_are_zero_or_negative_are_refined_as_they_are():
    problem = problem_of(Coordinates(torch.zeros(1, 2).double()), NO_INPUT, lambda o, t: o[:, 0] + o[:, 1] ** 2)
    found = surface(problem, points=9, adaptive_grid=True, directions=plane_problem()[1])
    x, y = found.data["x"].values[None, :], found.data["y"].values[:, None]
    assert found.data["loss"].values == pytest.approx(x + y**2, abs=0.02)
    flat = surface(
        problem_of(Coordinates(torch.zeros(1, 2).double()), NO_INPUT, lambda o, t: 0 * o[:, 0]),
        points=9, adaptive_grid=True, directions=plane_problem()[1],
    )  # fmt: skip
    assert (flat.data["loss"].values == 0).all()


def test_all_metrics_are_interpolated():
    found = surface(problem_of(small_mlp(), domain_data()), points=9, adaptive_grid=True)
    for name in ("accuracy", "domain_loss", "domain_variance", "worst_domain"):
        assert np.isfinite(found.data[name]).all()
    pooled = (found.data["domain_loss"] * np.array([9, 20, 13])[:, None, None]).sum("domain") / 42
    assert np.allclose(pooled, found.data["loss"])
    assert adaptive.SHARE == 0.4


# -- metrics ----------------------------------------------------------


def test_every_metric_of_one_pass_by_hand():
    data, test_data = domain_data(), domain_data((5, 6, 7), seed=3)
    problem = problem_of(small_mlp(), data, batch_size=8)
    test = problem.with_examples(problem_of(small_mlp(), test_data).examples)
    names = (*SurfaceSpec().metrics, "test-loss", "test-accuracy", "test-domain-loss")
    found = surface(problem, dim=1, points=3, range=0.4, test=test, metrics=names)
    d = found.vectors
    for i, x in enumerate(found.data["x"].values):
        moved = small_mlp()
        with torch.no_grad():
            for k, p in moved.named_parameters():
                p.add_(d[f"d1.{k}"], alpha=float(x))
        here, there = problem_of(moved, data).evaluate(), problem_of(moved, test_data).evaluate()
        losses = np.array([v.loss for v in here.domains.values()])
        expected = {
            "loss": here.loss,
            "accuracy": here.accuracy,
            "domain_mean": losses.mean(),
            "domain_variance": losses.var(),
            "worst_domain": losses.argmax(),
            "worst_domain_loss": losses.max(),
            "test_loss": there.loss,
            "test_accuracy": there.accuracy,
        }
        for name, value in expected.items():
            assert float(found.data[name][i]) == pytest.approx(value, rel=1e-9), name
        assert found.data["domain_loss"].values[:, i] == pytest.approx(losses, rel=1e-9)
        right = [v.accuracy for v in here.domains.values()]
        assert found.data["domain_accuracy"].values[:, i] == pytest.approx(right)
        assert found.data["test_domain_loss"].values[:, i] == pytest.approx([v.loss for v in there.domains.values()])
    assert found["test_examples"] == 18


def test_only_what_is_asked_for_is_stored():
    found = surface(problem_of(small_mlp(), domain_data()), points=3, metrics=("loss", "worst-domain"))
    assert set(found.data.data_vars) == {"loss", "worst_domain", "worst_domain_loss"}
    assert found["metrics"] == list(found.data.data_vars)


def test_the_checks_look_at_the_training_loss_whatever_is_stored():
    problem = problem_of(small_mlp(), domain_data())
    test = problem.with_examples(problem_of(small_mlp(), domain_data((5, 6, 7), seed=3)).examples)
    found = surface(problem, points=5, test=test, metrics=("test-loss",))
    whole = surface(problem, points=5)
    assert list(found.data.data_vars) == ["test_loss"]
    assert found["test_data_hash"] == test.data_hash
    for check in ("minimum", "minimum_at", "largest_jump", "notes", "topology"):
        assert found[check] == whole[check]


# -- self-checks ----------------------------------------------------------


def test_the_lowest_point_is_named_where_it_is_not_the_centre():
    problem = problem_of(
        Coordinates(torch.tensor([[1.0, 0.0]]).double()), NO_INPUT, lambda o, t: o[:, 0] ** 2 + o[:, 1] ** 2 + 1
    )
    found = surface(problem, points=5, directions=plane_problem()[1])
    assert found["minimum"] == pytest.approx(1)
    assert found["minimum_at"] == {"x": -1.0, "y": 0.0}
    assert "not the lowest point" in found["notes"][0]
    assert found["largest_jump"] == pytest.approx(np.log10(2.25 / 1.25), abs=0.15)
    assert surface(problem_of(small_mlp(), domain_data()), points=3, range=1e-9)["largest_jump"] < 1e-6


def test_frozen_parameters_are_counted():
    model = small_mlp()
    model[0].weight.requires_grad_(False)
    found = surface(problem_of(model, domain_data()), points=3)
    assert (found["moved_parameters"], found["zeroed_parameters"], found["frozen_parameters"]) == (18, 9, 30)
    assert found["fixed_parameters"] == 39


# -- waiting for the device ----------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: reading a number, or a size that depends on values."""

    NAMES = ("_local_scalar_dense", "nonzero", "_unique2", "bincount", "masked_select", "is_nonzero", "equal", "item")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition("::")[2].partition(".")[0]
        if name in self.NAMES:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", ["keep", "recalibrate"])
def test_no_grid_point_waits_for_the_device(policy: str):
    from landscape.surfaces.evaluate.batchnorm import calibration_problem
    from surfaces.test_between_checkpoints import batchnorm_net

    problem = problem_of(batchnorm_net(), domain_data(), batch_size=16)
    direction = Direction("a", [torch.ones_like(t) for t in problem.space.tensors])
    training = calibration_problem(problem, problem.examples)
    with evaluating(problem, policy, None, training) as walker:
        walker.at([])  # reads the batches
        with Waits() as waits:
            walker.over([[(0.5, direction), (step, direction)] for step in (0.1, 0.2, 0.3)])
    assert waits.found == []
    with Waits() as waits:
        torch.ones(2).sum().item()
        torch.bincount(torch.arange(3))
    assert waits.found == ["_local_scalar_dense", "bincount"]
