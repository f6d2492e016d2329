"""Adaptive grids show what was interpolated and report only what was evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import Coordinates, domain_data, problem_of, small_mlp
from scipy.spatial import cKDTree
from torch import Tensor

from landscape.figures.draw.panels import Panels
from landscape.figures.draw.style import Style
from landscape.figures.surface import merge_tree
from landscape.results.result import Result
from landscape.surfaces.checks import value_checks
from landscape.surfaces.directions.direction import Direction
from landscape.surfaces.evaluate import adaptive
from landscape.surfaces.surface import surface
from landscape.surfaces.topology import _eight, _triangulated, basins, describe

NO_INPUT = (torch.zeros(3, 1).double(), torch.zeros(3).double())
AXES = [Direction("a", [torch.tensor([[1.0, 0]]).double()]), Direction("b", [torch.tensor([[0, 1.0]]).double()])]


def over(loss, points: int, **options):
    """A surface of ``loss(x, y)``."""
    problem = problem_of(Coordinates(torch.zeros(1, 2).double()), NO_INPUT, lambda o, t: loss(o[:, 0], o[:, 1]))
    return surface(problem, points=points, directions=AXES, **options)


def cusp(x: Tensor, y: Tensor) -> Tensor:
    """A minimum at the centre that is one cell wide, in a wall that rises over five decades."""
    r = x**2 + y**2
    return 1e-4 + torch.sqrt(r) + 1e5 * r**4


def likelihood(x: Tensor, y: Tensor) -> Tensor:
    """A Gaussian negative log-likelihood: -4 in the valley, 1e5 on the hills."""
    return (x * torch.exp(4 - 2 * y)) ** 2 / 2 + y - 4


@pytest.mark.parametrize("points", [9, 11, 13, 15, 23])
def test_the_centre_is_always_evaluated(points: int):
    found = over(cusp, points, adaptive_grid=True)
    centre = found.data.sel(x=0.0, y=0.0)
    assert bool(centre["evaluated"])
    assert float(centre["loss"]) == found["center_loss"] == pytest.approx(1e-4, rel=1e-9)
    assert (found["minimum"], found["minimum_at"]) == (found["center_loss"], {"x": 0.0, "y": 0.0})
    assert found["notes"] == []
    assert found["evaluated_points"] <= adaptive.SHARE * points**2


@pytest.mark.parametrize("loss", [likelihood, cusp, lambda x, y: x - y**2, lambda x, y: -torch.exp(3 * x + y)])
def test_what_is_reported_was_evaluated(loss):
    found, truth = over(loss, 11, adaptive_grid=True), over(loss, 21)
    lowest = found.data["loss"].values[found.data["evaluated"].values].min()
    assert found["minimum"] == lowest >= truth["minimum"]
    assert float(truth.data["loss"].sel(found["minimum_at"])) == pytest.approx(lowest, rel=1e-12)
    # No picture shows more than was seen: every cell lies between evaluated ones around it.
    evaluated, values = found.data["evaluated"].values, found.data["loss"].values
    tree, seen = cKDTree(np.argwhere(evaluated)), values[evaluated]
    for place in np.argwhere(~evaluated):
        near = seen[tree.query_ball_point(place, tree.query(place, k=8)[0][-1] + 1e-9)]
        slack = 1e-12 * np.abs(near).max()
        assert near.min() - slack <= values[tuple(place)] <= near.max() + slack


def test_interpolated_cells_change_no_number():
    """Roughness, minima, jumps and notes are those of the evaluated cells, whatever stands between them."""
    found = over(cusp, 11, adaptive_grid=True)
    evaluated, loss = found.data["evaluated"].values, found.data["loss"].values
    rng = np.random.default_rng(0)
    other = np.where(evaluated, loss, 10 ** rng.uniform(-9, 9, loss.shape))
    other[~evaluated & (rng.random(loss.shape) < 0.1)] = np.nan
    axes = {k: found.data[k].values for k in "xy"}
    assert value_checks(other, axes, found["center_loss"], evaluated) == {
        k: found[k] for k in ("minimum", "minimum_at", "nan_cells", "infinite_cells", "largest_jump", "notes")
    }
    assert describe(other, evaluated) == found["topology"]
    assert found["topology"]["minima"] == 1
    assert "evaluated cells alone" in found["topology"]["definition"]
    assert describe(other)["minima"] > 10  # without the mask they would be counted


def test_metrics_of_all_kinds_stay_within_what_was_evaluated():
    found = surface(problem_of(small_mlp(), domain_data()), points=11, range=40.0, adaptive_grid=True)
    evaluated = found.data["evaluated"].values
    for name in ("accuracy", "domain_accuracy"):
        values = found.data[name].transpose(..., "y", "x").values
        assert values.min() >= values[..., evaluated].min()
        assert values.max() <= values[..., evaluated].max() <= 1


def test_the_triangulation_of_a_full_grid_is_the_eight_neighbours():
    full = np.ones((5, 6), dtype=bool)
    near = _triangulated(full)
    for cell in np.ndindex(5, 6):
        inside = {(r, c) for r, c in _eight(cell) if 0 <= r < 5 and 0 <= c < 6}
        assert set(near(cell)) == inside
    height = np.random.default_rng(1).standard_normal((5, 6))
    height[2, 3] = np.nan
    assert basins(height, full) == basins(height)


def test_basins_of_evaluated_cells_by_hand():
    """Two wells on every second cell; the valley that the cells between would dig is not there."""
    height = np.full((5, 5), -9.0)
    height[::2, ::2] = [[5, 5, 5], [1, 3, 2], [5, 5, 5]]
    evaluated = np.zeros((5, 5), dtype=bool)
    evaluated[::2, ::2] = True
    deep, shallow = basins(height, evaluated)
    assert (deep.birth, deep.minimum) == (1, (2, 0))
    assert (shallow.birth, shallow.death, shallow.saddle, shallow.into) == (2, 3, (2, 2), (2, 0))


def test_figures_count_evaluated_cells():
    def wall(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(x > 0.5, torch.nan, cusp(x, y))

    found = over(wall, 11, adaptive_grid=True)
    evaluated, loss = found.data["evaluated"].values, found.data["loss"].values
    assert found["nan_cells"] == np.isnan(loss[evaluated]).sum() < np.isnan(loss).sum()
    (note,) = Panels.of([found]).notes
    assert note.startswith(f"{found['nan_cells']} value(s)")
    invented = found.data.assign(loss=(("y", "x"), np.where(evaluated, loss, 1e-12)))
    tree = merge_tree.draw([Result("surface", invented, found.record)], Style()).rows
    assert len(tree) == found["topology"]["minima"]
    assert min(row["birth"] for row in tree) == pytest.approx(np.log10(found["minimum"]))


def test_nothing_evaluated_is_a_number():
    values = np.full((3, 3), 0.5)
    record = value_checks(values, {"x": np.arange(3.0), "y": np.arange(3.0)}, 0.5, np.zeros((3, 3), dtype=bool))
    assert (record["minimum"], record["minimum_at"], record["largest_jump"]) == (None, None, None)
