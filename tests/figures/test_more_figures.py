"""Numbers of the figures of ends of training, of sharpness beyond one cell, and of those that move."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from figures import made
from landscape.base.errors import UsageError
from landscape.figures.draw.drawing import Drawing
from landscape.figures.draw.style import Style
from landscape.figures.render import drawable, fitting, render
from landscape.registry import FIGURES
from landscape.results.result import Result

LATER = made.plane("sam", 3).data["loss"].values


def draw(kind: str, results: list[Result]) -> Drawing:
    return FIGURES.load(kind)(fitting(kind, results), Style())


def trained(label: str, seed: int, unseen: float, rho: float = 0.05, domain: str = "r") -> Result:
    result = made.training(label, seed, unseen=unseen)
    result.record["spec"]["rho"] = rho
    result.record["holdout"] = [domain]
    return result


def test_error_reduction_is_relative_to_plain_training_with_the_same_seed():
    results = [trained("sgd", 0, 0.5), trained("sgd", 1, 0.8), trained("sam", 0, 0.6), trained("sam", 1, 0.7)]
    results.append(trained("sam", 2, 0.9))  # no baseline with this seed
    drawing = draw("error-reduction", results)
    assert [r["error_reduction"] for r in drawing.rows] == pytest.approx([20.0, -50.0])
    assert [(r["error"], r["baseline_error"]) for r in drawing.rows] == [
        (pytest.approx(0.4), 0.5),
        (pytest.approx(0.3), pytest.approx(0.2)),
    ]
    assert any("1 run(s) without plain training" in n for n in drawing.notes)
    with pytest.raises(UsageError, match="same seed"):
        draw("error-reduction", [trained("sgd", 0, 0.5), trained("sam", 1, 0.6)])
    assert "error-reduction" not in drawable([trained("sam", 1, 0.6)])


def test_accuracy_over_the_radius_has_whiskers_over_seeds_and_a_line_for_plain_training():
    results = [trained("sam", s, 0.5 + 0.1 * s + r, rho=r) for s in (0, 1) for r in (0.05, 0.1)]
    results += [trained("sgd", s, 0.4 + 0.1 * s) for s in (0, 1)]
    drawing = draw("accuracy-radius", results)
    axes = drawing.figure.axes[0]
    (line,) = [one for one in axes.lines if len(one.get_xdata()) == 2 and one.get_marker() == "s"]
    assert line.get_xdata().tolist() == [0.05, 0.1]
    assert line.get_ydata() == pytest.approx([60, 65])
    whiskers = axes.collections[0].get_segments()
    assert [w[:, 1].tolist() for w in whiskers] == [pytest.approx([55, 65]), pytest.approx([60, 70])]
    assert [row["rho"] for row in drawing.rows if row["label"] == "sgd"] == [None, None]


def test_held_out_domains_stand_side_by_side():
    pairs = list(itertools.product(("sgd", "sam"), "pq"))
    results = [trained(label, 0, 0.1 * i, domain=domain) for i, (label, domain) in enumerate(pairs)]
    drawing = draw("unseen", results)
    assert [t.get_text() for t in drawing.figure.axes[0].get_xticklabels()] == ["p", "q"]
    found = {(r["label"], r["task"]): r["unseen_accuracy"] for r in drawing.rows}
    assert found == pytest.approx({("sgd", "p"): 0.0, ("sgd", "q"): 0.1, ("sam", "p"): 0.2, ("sam", "q"): 0.3})


def test_sharpness_over_the_radius_and_of_single_domains_are_the_stored_cells():
    result = made.radii("sam", 0)
    rows = draw("sharpness-radius", [result]).rows
    for row in rows:
        assert row["mean"] == float(result.data["value"].sel(m=row["m"], rho=row["rho"]))
        assert row["stderr_over_blocks"] == float(result.data["stderr"].sel(m=row["m"], rho=row["rho"]))
    assert len(rows) == 9
    bars = {r["domain"]: r["value"] for r in draw("domain-sharpness", [result]).rows}
    assert bars == {
        "all together": float(result.data["value"].sel(m=1, rho=0.01)),
        **{d: float(result.data["domain_value"].sel(domain=d, m=1, rho=0.01)) for d in "pq"},
    }


def test_local_flatness_has_a_panel_per_set_of_examples_and_a_band_of_one_standard_error():
    seen = [made.radii("sam", seed) for seed in (0, 1)]
    unseen = made.radii("sam", 0, names=("r",))
    drawing = draw("local-flatness", [*seen, unseen])
    panels = drawing.figure.axes
    assert [a.get_title() for a in panels] == ["train: p, q", "train: r"]
    line = panels[0].lines[0]
    assert line.get_ydata() == pytest.approx([0.015 * g**2 for g in (0.5, 1, 2)])
    band = panels[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.06 + 0.001 * 2 * np.sqrt(2) / 2)


def test_the_map_of_controls_shows_ratios_to_the_unchanged_network():
    drawing = draw("controls", [made.radii("sam", 0)])
    words = [t.get_text() for t in drawing.figure.axes[0].texts]
    assert words[:6] == ["1", "2", "20", "1", "1", "1"]
    assert {r["measure"]: r["moves"] for r in drawing.rows}["margin"] is False
    assert any("more than 1%" in n for n in drawing.notes)


def test_slices_with_accuracy_show_training_and_test_data():
    result = made.line("sam", 0, 3)
    drawing = draw("twin-slice", [result])
    left, right = drawing.figure.axes
    assert [one.get_linestyle() for one in left.lines] == ["-", "--"]
    assert left.lines[1].get_ydata() == pytest.approx(np.median(result.data["test_loss"].values, 0))
    assert right.lines[0].get_ydata() == pytest.approx(100 * np.median(result.data["accuracy"].values, 0))
    assert {r["quantity"] for r in drawing.rows} == {"loss", "test_loss", "accuracy", "test_accuracy"}


def pictures(gif: bytes) -> list[np.ndarray]:
    with Image.open(io.BytesIO(gif)) as opened:
        found = []
        for i in range(opened.n_frames):
            opened.seek(i)
            found.append(np.asarray(opened.convert("RGB")).astype(int))
        return found


@pytest.mark.parametrize(
    ("kind", "frames", "results"),
    [
        ("trajectory-movie", 4, lambda: [made.trajectory("sgd", 0)]),
        (
            "surface-movie",
            2,
            lambda: [made.over_training("sgd", 0), made.plane("sgd", 0, LATER)],
        ),
    ],
)
def test_a_movie_has_a_picture_per_checkpoint_and_ends_as_the_still(kind, frames, results, tmp_path):
    gif, page, _ = render(kind, results(), tmp_path, formats=("gif", "html"), venue="icml")
    again, _ = render(kind, results(), tmp_path / "again", formats=("gif",), venue="icml")
    assert gif.read_bytes() == again.read_bytes()
    found = pictures(gif.read_bytes())
    assert len(found) == frames
    assert all(np.abs(a - b).max() > 60 for a, b in itertools.pairwise(found))
    text = page.read_text(encoding="utf-8")
    assert text.count('"method":"animate"') == frames + 2
    drawing = draw(kind, results())
    drawing.movie.show(0)
    drawing.movie.show(frames - 1)
    assert len(drawing.rows) in (8, 2 * 35)


def test_only_movies_move(tmp_path):
    with pytest.raises(UsageError, match="does not move"):
        render("contour", [made.plane("sgd", 0)], tmp_path, formats=("gif",))


def test_under_a_contour_stands_the_error_and_on_its_lines_the_level():
    with_test = made.plane("sgd", 0)
    with_test.data["test_accuracy"] = (("y", "x"), np.full((5, 7), 0.9))
    without = made.plane("sam", 0, accuracy=0.75)
    panels = draw("contour", [with_test, without]).figure.axes
    assert panels[0].get_xlabel() == "test error 10.0 %"
    assert panels[1].get_xlabel() == "train error 25.0 %"
    numbers = [float(t.get_text().replace("−", "-")) for t in panels[0].texts]
    assert numbers
    assert set(numbers) <= set(np.round(np.arange(-3, 2, 0.1), 3))


def test_single_peaks_of_a_still_surface_are_cut_and_said():
    loss = made.plane("sgd", 0).data["loss"].values.copy()
    loss[0, 0] = 1e12
    drawing = draw("surface3d", [made.plane("sgd", 0, loss)])
    (note,) = [n for n in drawing.notes if "plateau" in n]
    assert "the highest is 12" in note
    assert drawing.figure.axes[0].get_zlim()[1] < 1
    assert max(r["plotted_height"] for r in drawing.rows) == 12
    assert not any("plateau" in n for n in draw("surface3d", [made.plane("sgd", 0)]).notes)


def test_the_mean_of_three_checkpoints_lies_where_it_should():
    result = made.trajectory("sgd", 0, runs=("sam", "sagm"), count=1)
    result.record["plane"] = "through three checkpoints"
    result.data["checkpoint_x"].values[:] = [0.6, 0.3]
    result.data["checkpoint_y"].values[:] = [0.0, 0.9]
    drawing = draw("plane", [result])
    (mark,) = [one for one in drawing.figure.axes[0].lines if one.get_marker() == "o"]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (pytest.approx(0.3), pytest.approx(0.3))
