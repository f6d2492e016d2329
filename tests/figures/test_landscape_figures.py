"""What the figures of surfaces, planes and paths show, and that they show it on one scale."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from figures import made
from landscape.figures.draw.axis_labels import axis_text
from landscape.figures.draw.style import Style
from landscape.figures.render import drawable, fitting
from landscape.figures.surface.merge_tree import _places
from landscape.registry import FIGURES
from landscape.results.result import Result
from landscape.surfaces.topology import basins


def draw(kind: str, results: list[Result]):
    return FIGURES.load(kind)(fitting(kind, results), Style())


def test_domains_in_rows_optimizers_in_columns_one_norm():
    from matplotlib.contour import QuadContourSet

    loud = made.plane("sam", 0, 100 * made.plane("sam", 0).data["loss"].values)
    drawing = draw("domain-surfaces", [made.plane("sgd", 0), loud])
    panels = [a for a in drawing.figure.axes if a.get_label() != "<colorbar>"]
    assert len(panels) == 4
    assert [a.get_title() for a in panels[:2]] == ["SGD\nseed 0", "SAM\nseed 0"]
    assert [a.get_ylabel() for a in panels] == ["p", "", "q", ""]
    ranges = {
        (c.norm.vmin, c.norm.vmax)
        for a in panels
        for c in a.collections
        if isinstance(c, QuadContourSet) and c.filled
    }
    assert len(ranges) == 1
    low, high = ranges.pop()
    heights = [row["plotted_height"] for row in drawing.rows]
    assert low <= min(heights)
    assert high >= max(heights)
    assert len(drawing.rows) == 2 * 2 * 35
    second = [row for row in drawing.rows if row["domain"] == "q" and row["label"] == "sgd"]
    assert second[0]["loss"] == pytest.approx(2 * float(made.plane("sgd", 0).data["loss"][0, 0]))


def test_the_arrow_of_a_path_is_its_barrier():
    drawing = draw("path", [made.between("sgd", 0, height=2.0)])
    (arrow,) = [t for t in drawing.figure.axes[0].texts if t.arrow_patch is not None]
    assert arrow.xy == (0.5, pytest.approx(0.15 + 2.0))
    assert arrow.xyann == (0.5, pytest.approx(0.15))
    assert "barrier 2" in drawing.notes[0]
    assert any("BatchNorm: recalibrate" in t.get_text() for t in drawing.figure.legends[0].texts)


def test_a_path_without_a_barrier_has_no_arrow_and_equal_names_are_told_apart():
    flat = [made.between("sgd", 0, height=-0.1), made.between("sgd", 0, height=-0.2)]
    drawing = draw("path", flat)
    assert not [t for t in drawing.figure.axes[0].texts if t.arrow_patch is not None]
    assert len({row["path"] for row in drawing.rows}) == 2


def test_markers_of_a_trajectory_grow_with_the_distance_off_the_plane():
    result = made.trajectory("sgd", 0)
    result.data["off_plane"].values[1:3] = [0.0, 0.7]
    drawing = draw("plane", [result])
    sizes = [c.get_sizes() for c in drawing.figure.axes[0].collections if len(c.get_offsets()) == 2]
    assert sizes[0][0] < sizes[0][1]
    assert axis_text("x", result, 0) == "x (PC1, 80.0 % of squared distances)"
    assert any("off the plane" in n for n in drawing.notes)
    checkpoints = [r for r in drawing.rows if r["what"] == "checkpoint"]
    assert len(checkpoints) == 8
    assert {"checkpoint_loss", "plane_loss", "off_plane"} <= set(checkpoints[0])


def test_the_largest_of_several_planes_is_drawn():
    drawing = draw("plane", [made.trajectory("sam", 0, count=3), made.trajectory("sgd", 0, count=5)])
    assert sum(r["what"] == "checkpoint" for r in drawing.rows) == 10
    assert any("1 further plane" in n for n in drawing.notes)


def test_evaluated_points_of_adaptive_grids_are_marked():
    result = made.plane("sgd", 0)
    evaluated = np.zeros((5, 7), dtype=bool)
    evaluated[::2, ::3] = True
    result = Result("surface", result.data.assign(evaluated=(("y", "x"), evaluated)), result.record)
    drawing = draw("contour", [result])
    assert any("interpolated" in n for n in drawing.notes)
    assert any(len(line.get_xdata()) == 9 for line in drawing.figure.axes[0].lines)


def test_merge_trees_do_not_cross():
    """Between a basin and the one it ends in no line stands that reaches up to where they meet."""
    height = np.random.default_rng(0).standard_normal((12, 12))
    every = basins(height)
    place = _places(every)
    assert sorted(place.values()) == list(range(len(every)))
    for b in every:
        if b.into is not None:
            low, high = sorted((place[b.minimum], place[b.into]))
            between = [c for c in every if low < place[c.minimum] < high]
            assert all(c.death <= b.death for c in between)


def test_a_merge_tree_counts_minima_and_roughness():
    loss = np.array([[1, 10, 0.1, 10, 1]] * 3) * np.array([[10], [1], [10]])
    x, y = np.arange(5.0), np.arange(3.0)
    rough = made.plane("sgd", 0)
    rough = Result("surface", xr.Dataset({"loss": (("y", "x"), loss)}, {"x": x, "y": y}), rough.record)
    drawing = draw("merge-tree", [rough])
    assert [r["persistence"] for r in drawing.rows] == [np.inf, pytest.approx(1), pytest.approx(1)]
    assert drawing.figure.axes[0].get_xlabel() == "3 minima, roughness 2"


def test_what_can_be_drawn_is_drawn():
    assert drawable([made.plane("sgd", 0)]) == ["contour", "domain-surfaces", "surface3d"]  # a bowl has no tree
    assert drawable([made.between("sgd", 0)]) == ["path"]


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"direction": "eigvec:2", "eigenvalue": 12.345}, "eigenvector 2, λ = 12.3"),
        ({"direction": "sam:0.05", "rho": 0.05}, "SAM steps of ρ = 0.05"),
        ({"direction": "domain-grad:photo"}, "gradient of photo, length 1"),
        ({"direction": "checkpoint:/a/b.pt"}, "towards b.pt"),
        ({"direction": "filter", "one_dimensional": "tensor"}, "filter-normalised"),
    ],
)
def test_words_on_the_axes_say_what_the_record_says(facts: dict, text: str):
    assert axis_text("α", made.plane("sgd", 0, axes=[facts]), 0) == f"α ({text})"
