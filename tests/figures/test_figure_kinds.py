from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from figures import made
from landscape.base.errors import UsageError
from landscape.figures.draw.axis_labels import axis_text
from landscape.figures.draw.drawing import Drawing
from landscape.figures.draw.method_styles import FIXED, looks, ordered
from landscape.figures.draw.scales import common_range, log_losses
from landscape.figures.draw.style import VENUES, Style
from landscape.figures.draw.text import safe
from landscape.figures.render import fitting
from landscape.registry import FIGURES
from landscape.results.result import Result

KINDS = [k for k in FIGURES if not k.startswith("study-")]  # a study is a result of its own; see test_study_figures


def draw(kind: str, results: list[Result], style: Style | None = None) -> Drawing:
    return FIGURES.load(kind)(fitting(kind, results), style or Style())


def texts(drawing: Drawing) -> list[str]:
    from matplotlib.text import Text

    return [t.get_text() for t in drawing.figure.findobj(Text)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_drawn_is_in_the_rows_and_every_figure_says_how_seeds_are_shown(kind: str) -> None:
    drawing = draw(kind, made.everything())
    assert drawing.rows
    alone = {"controls": {"sgd"}, "error-reduction": {"sam"}}.get(kind)
    assert {row["label"] for row in drawing.rows} == (alone or {"sgd", "sam"})
    assert drawing.notes
    assert any("SGD" in t for t in texts(drawing)) or kind == "error-reduction"


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_and_a_checkpoint_without_a_run(kind: str) -> None:
    results = [r for r in made.everything(("mine.pt",), (None,)) if r.kind != "training"] + [made.training("a", 0)]
    if kind in (
        "surface-movie",
        "error-reduction",
        "curvature-course",
    ):  # which compare checkpoints of a run, and runs
        with pytest.raises(UsageError, match="nothing to draw"):
            draw(kind, results)
    else:
        draw(kind, results)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_users_never_break_a_figure(kind: str) -> None:
    shown = texts(draw(kind, made.hostile()))
    assert any(" _x" in t for t in shown)
    assert not any(t.startswith("_") for t in shown)
    assert any(r"\$\\frac{\$" in t or r"\$\frac{\$" in t for t in shown)
    assert any(r"\u6570" in t for t in shown)
    assert not any("a" * 100 in t for t in shown)


@pytest.mark.parametrize("venue", list(VENUES))
def test_figures_have_the_width_of_the_venue(venue: str) -> None:
    for columns in (1, 2):
        style = Style(venue, columns)
        assert style.figure().get_size_inches()[0] == style.width == VENUES[venue].widths[columns - 1]
    with pytest.raises(UsageError, match="1 or 2 columns"):
        Style(venue, 3)


def test_unknown_venue_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'neurips'.*icml"):
        Style("neurip")


def test_eigenvalue_bars_are_means_and_whiskers_are_residuals_in_units_of_the_eigenvalue() -> None:
    drawing = draw("eigenvalues", [made.hessian("sgd", 0, 2.0, 0.01), made.hessian("sgd", 1, 4.0, 0.2)])
    first = next(r for r in drawing.rows if r["seed"] == "mean" and r["rank"] == 1)
    assert first["eigenvalue"] == 3.0
    assert first["residual"] == pytest.approx(0.2 * 4.0)
    bars = drawing.figure.axes[0].patches
    assert [b.get_height() for b in bars] == pytest.approx([3.0, 1.5, 1.0])
    assert any("did not converge" in note for note in drawing.notes)


def test_an_eigenvalue_that_is_not_finite_is_left_out_and_said() -> None:
    broken = made.hessian("sgd", 0)
    broken.data["eigenvalues"].values[1] = np.nan
    drawing = draw("eigenvalues", [broken])
    assert {r["rank"] for r in drawing.rows} == {1, 3}
    assert any("1 value(s)" in note for note in drawing.notes)


def test_a_slice_shows_median_and_quartiles_over_repeats_and_seeds() -> None:
    results = [made.line("sam", 0, 3), made.line("sam", 1, 3)]
    drawing = draw("slice", results)
    lines = np.concatenate([r.data["loss"].values for r in results])
    rows = [r for r in drawing.rows if r["quantity"] == "loss"]
    assert [r["median"] for r in rows] == pytest.approx(np.median(lines, 0).tolist())
    assert [r["lower_quartile"] for r in rows] == pytest.approx(np.percentile(lines, 25, axis=0).tolist())
    assert {r["lines"] for r in rows} == {6}
    drawn = drawing.figure.axes[0].lines[0].get_ydata()
    assert list(drawn) == [r["median"] for r in rows]


def test_bands_over_seeds_are_lowest_and_highest() -> None:
    drawing = draw("m-sharpness", [made.sharpness("sam", 0, 0.1), made.sharpness("sam", 1, 0.3)])
    first = drawing.rows[0]
    assert (first["m"], first["mean"], first["lowest_seed"], first["highest_seed"]) == pytest.approx(
        (1, 0.2, 0.1, 0.3)
    )
    assert drawing.figure.axes[0].get_yscale() == "log"


def test_sharpness_that_is_not_positive_gets_an_axis_that_says_so() -> None:
    drawing = draw("m-sharpness", [made.sharpness("sam", 0, -0.1), made.sharpness("sgd", 0, 0.1)])
    assert drawing.figure.axes[0].get_yscale() == "symlog"
    assert any("linear within ±" in t for t in texts(drawing))


def test_a_run_counts_once_and_what_is_left_out_is_said() -> None:
    small, large = made.hessian("sgd", 0, 9.0, n_examples=8), made.hessian("sgd", 0, 2.0)
    drawing = draw("eigenvalues", [large, small])
    assert next(r["eigenvalue"] for r in drawing.rows if r["seed"] == 0) == 2.0
    assert any("1 further result" in note for note in drawing.notes)


def test_results_on_other_examples_are_named() -> None:
    drawing = draw("eigenvalues", [made.hessian("sgd", 0), made.hessian("sam", 0, data_hash="other")])
    assert any("not all results were computed on the same examples" in note for note in drawing.notes)


def test_domains_mark_what_was_not_trained_on() -> None:
    drawing = draw("domains", [made.domains("sgd", 0), made.domains("sgd", 1)])
    assert {r["domain"]: r["seen"] for r in drawing.rows} == {"p": True, "q": True, "r": False}
    marks = [line for line in drawing.figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() for line in marks] == ["#000000", "#000000", "white"]
    assert marks[0].get_ydata()[0] == pytest.approx(0.105)


def test_training_without_domains_or_evaluations() -> None:
    bare = made.training("sgd", 0)
    bare.data = bare.data[["batch_loss"]]
    assert {r["quantity"] for r in draw("training", [bare]).rows} == {"batch_loss"}


# -- surfaces -----------------------------------------------------------------------------------------------------


def test_axis_text_is_what_the_record_says() -> None:
    assert axis_text("α", made.plane("sgd", 0), 0) == "α (filter-normalised, 1-D fixed)"
    assert axis_text("β", made.plane("sgd", 0, kind="layer", fixed_parameters=0), 1) == "β (layer-normalised)"
    with_norm = made.plane("sgd", 0, batchnorm_layers=2, bn_policy="keep")
    assert axis_text("α", with_norm, 0) == "α (filter-normalised, 1-D fixed, BatchNorm: keep)"
    assert axis_text("α", made.plane("sgd", 0, kind="eigvec:1"), 0) == "α (eigvec:1)"
    assert axis_text("α", made.plane("sgd", 0, axes=None), 0) == "α"
    assert "α (filter-normalised, 1-D fixed)" in texts(draw("contour", [made.plane("sgd", 0)]))


def test_panels_share_one_norm_that_covers_all_finite_data() -> None:
    from matplotlib.contour import QuadContourSet

    results = [made.plane("sgd", 0), made.plane("sam", 0, 50 * made.plane("sam", 0).data["loss"].values)]
    drawing = draw("contour", results)
    fills = [c for a in drawing.figure.axes for c in a.findobj(QuadContourSet) if c.filled]
    assert len(fills) == 2
    assert len({(c.norm.vmin, c.norm.vmax) for c in fills}) == 1
    every = np.log10(np.concatenate([r.data["loss"].values.ravel() for r in results]))
    assert (fills[0].norm.vmin, fills[0].norm.vmax) == (every.min(), every.max())
    assert {c.extend for c in fills} == {"neither"}
    bars = [a for a in drawing.figure.axes if a.get_label() == "<colorbar>"]
    assert len(bars) == 1
    assert bars[0].get_ylim() == (every.min(), every.max())  # the colour bar ends where the data end


def test_one_panel_per_optimizer_says_its_seed_and_one_optimizer_shows_all_seeds() -> None:
    both = draw("contour", [made.plane(k, s) for k in ("sgd", "sam") for s in (2, 1)])
    assert "SGD\nseed 1 (1 of 2)" in texts(both)
    assert {r["seed"] for r in both.rows} == {1}
    alone = draw("contour", [made.plane("sam", s) for s in (2, 1)])
    assert {"SAM\nseed 1", "SAM\nseed 2"} <= set(texts(alone))


@pytest.mark.parametrize("kind", ["contour", "surface3d"])
@pytest.mark.parametrize("worst", ["nan cells", "all nan", "zeros", "negative", "constant", "huge"])
def test_losses_of_any_kind_are_drawn(kind: str, worst: str) -> None:
    loss = made.plane("sgd", 0).data["loss"].values.copy()
    if worst == "nan cells":
        loss[0, 0], loss[2, 3], loss[4, 6] = np.nan, np.inf, -np.inf
    elif worst == "huge":
        loss[0, 0] = 1e300
    else:
        loss = {"all nan": loss * np.nan, "zeros": loss * 0, "negative": loss - 1, "constant": loss * 0 + 3}[worst]
    drawing = draw(kind, [made.plane("sgd", 0, loss), made.plane("sam", 0, loss)])
    drawing.figure.savefig(io.BytesIO(), format="png", dpi=50)
    assert len(drawing.rows) == 2 * loss.size
    if "nan" in worst:
        assert any("NaN or infinite" in note for note in drawing.notes)
    if worst in ("zeros", "negative"):
        assert any("loss + " in t for t in texts(drawing))


def test_cells_that_are_not_finite_are_hatched() -> None:
    loss = made.plane("sgd", 0).data["loss"].values.copy()
    loss[2, 3] = np.nan
    axes = draw("contour", [made.plane("sgd", 0, loss)]).figure.axes[0]
    assert axes.patch.get_hatch() == "////"


def test_a_plane_of_one_row_is_refused() -> None:
    row = made.plane("sgd", 0).data["loss"].values[:1]
    for kind in ("contour", "surface3d"):
        with pytest.raises(UsageError, match="at least 2 x 2 points"):
            fitting(kind, [made.plane("sgd", 0, row)])


def test_the_still_surface_has_pixels_of_its_own() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawing = draw("surface3d", [made.plane("sgd", 0), made.plane("sam", 0)])
    canvas = FigureCanvasAgg(drawing.figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    coloured = (pixels.max(-1) - pixels.min(-1)) > 40
    assert coloured.mean() > 0.03
    bodies = [c for a in drawing.figure.axes for c in a.collections if type(c).__name__ == "Poly3DCollection"]
    assert len(bodies) == 2
    assert all(b.get_rasterized() for b in bodies)


def test_surfaces_to_turn_share_one_range_per_view() -> None:
    drawing = draw("surface3d", [made.plane("sgd", 0), made.plane("sam", 0, made.plane("sam", 1).data["loss"] * 9)])
    bodies = list(drawing.interactive.data)
    assert [b.visible for b in bodies] == [True, False, False] * 2
    for first, second in zip(bodies[:3], bodies[3:], strict=True):
        assert (first.cmin, first.cmax) == (second.cmin, second.cmax)
        heights = np.concatenate([np.asarray(b.z).ravel() for b in (first, second)])
        assert (heights.min(), heights.max()) == pytest.approx((first.cmin, first.cmax))


def test_logarithms_keep_order_and_name_the_shift() -> None:
    plain, text = log_losses([np.array([[1.0, 10.0]])])
    assert text == "log₁₀ loss"
    assert plain[0].tolist() == [[0.0, 1.0]]
    shifted, text = log_losses([np.array([0.0, 1.0, np.inf]), np.array([-1.0, np.nan])])
    assert text == "log₁₀(loss + 1)"
    assert np.isfinite(shifted[0][:2]).all()
    assert np.isnan(shifted[0][2])
    assert shifted[1][0] < shifted[0][0] < shifted[0][1]
    assert common_range([]) == (0.0, 1.0)


# -- looks and text -----------------------------------------------------------------------------------------------


def test_looks_differ_and_do_not_depend_on_the_order_of_results() -> None:
    labels = [*FIXED, *"abcdefghijklmnopqrst"]
    given = looks(labels)
    assert given == looks(reversed(labels))
    assert len(set(given.values())) == len(labels)
    assert given["sam"].colour == "#0072B2"
    assert ordered(["zeta", "disam", "sam", "adam"]) == ["adam", "sam", "disam", "zeta"]


def test_safe_text() -> None:
    assert safe("_x") == " _x"
    assert safe(r"$\frac{$") == r"\$\frac{\$"
    assert safe("数") == r"\u6570"
    assert safe("a\nb\tc\x00") == "a b c"
    assert safe("") == "(no name)"
    assert len(safe("x" * 99, 10)) == 10
    assert safe("für α ≤ 1") == "für α ≤ 1"


def test_settings_of_the_session_stay_as_they_were() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw("contour", made.everything())
    assert dict(matplotlib.rcParams) == before


def test_rows_can_be_read_back_by_any_csv_reader() -> None:
    from landscape.figures.draw.tables import to_csv

    text = to_csv([{"a": "=1+1", "b": 0.1}, {"a": "-x", "b": None, "c": True}, {"a": "@y", "b": -2.0}])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["a"] for r in rows] == ["'=1+1", "'-x", "'@y"]
    assert [r["b"] for r in rows] == ["0.1", "", "-2.0"]


def test_domain_curves_hold_the_numbers_of_the_results() -> None:
    results = [made.domain_curves("sgd", 0), made.domain_curves("sgd", 1), made.domain_curves("sam", 0)]
    rows = draw("domain-curves", results).rows
    losses = [r.data["loss"].sel(domain="r").values for r in results[:2]]
    drawn = [r for r in rows if r["quantity"] == "loss" and (r["label"], r["domain"]) == ("sgd", "r")]
    assert [r["mean"] for r in drawn] == pytest.approx(np.mean(losses, axis=0))
    assert [r["seen"] for r in drawn] == [False] * 5
    assert {r["quantity"] for r in rows} == {
        "loss",
        "normalized_loss",
        "loss_variance",
        "perturbed_loss_variance",
        "conflict_share",
    }
    variance = [r["mean"] for r in rows if r["quantity"] == "loss_variance" and r["label"] == "sam"]
    assert variance == pytest.approx(results[2].data["loss_variance"].values)


def test_domain_matrices_are_means_over_seeds_with_held_out_domains_marked() -> None:
    results = [made.domains("sam", 0), made.domains("sam", 1)]
    drawing = draw("domain-matrix", results)
    cell = [r for r in drawing.rows if (r["quantity"], r["row"], r["column"]) == ("cross_sharpness", "seen", "r*")]
    expected = np.mean([float(r.data["cross_sharpness"].sel(source="seen", domain="r")) for r in results])
    assert cell[0]["value"] == pytest.approx(expected)
    assert any("*" in t for t in texts(drawing))


def test_spectra_have_a_row_per_optimizer_and_a_column_per_checkpoint():
    drawing = draw("spectra", [made.spectrum(label, 0, step) for label in ("sgd", "sam") for step in (5, 10, 15)])
    axes = drawing.figure.axes
    assert len(axes) == 6
    assert [a.get_title().partition("\n")[0] for a in axes[:3]] == ["epoch 1", "epoch 2", "epoch 3"]
    assert {a.get_xlim() for a in axes} == {axes[0].get_xlim()}
    assert {a.get_ylim() for a in axes} == {axes[0].get_ylim()}
    assert {a.get_title().rpartition("\n")[2] for a in axes} == {"λ₁ = 2, λ₁/λ₅ = 40"}
    assert len(drawing.rows) % 6 == 0
    assert 6 * 20 < len(drawing.rows) < 6 * 61  # without what lies under the floor
    first = drawing.rows[0]
    assert (first["label"], first["step"]) in {("sgd", 5), ("sam", 5)}


def test_spectra_of_groups_share_an_axis_and_say_what_is_left_out() -> None:
    results = [made.groups(label, 0, step) for label in ("sgd", "sam") for step in (5, 10)]
    other = made.groups("sam", 1, names=("a", "b"))
    drawing = draw("group-spectra", [*results, other])
    rows = drawing.rows
    assert len(rows) == 4 * 6 * 3  # two eigenvalues and the mean of all
    tops = {r["group"]: r["value"] for r in rows if r["quantity"] == "lambda_1"}
    assert tops == {name: 2.0 / (1 + i) for i, name in enumerate(made.BLOCKS)}
    mean = next(r for r in rows if r["quantity"] == "mean" and r["group"] == "lm_head")
    assert (mean["value"], mean["stderr"]) == pytest.approx((0.04 * tops["lm_head"], 0.01 * tops["lm_head"]))
    assert {r["group"] for r in rows if not r["converged"]} == {"model.layers.0"}
    axes = drawing.figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "embed tokens", "layers.0", "layers.1", "layers.2", "norm", "lm head"
    ]  # fmt: skip
    assert {a.get_xscale() for a in drawing.figure.axes} == {"log"}
    assert any("other groups of parameters" in note for note in drawing.notes)
    below = draw("group-spectra", [made.groups("sgd", 0, top=-1.0)])
    assert below.figure.axes[0].get_xscale() == "symlog"


def test_the_course_of_curvature():
    drawing = draw("curvature-course", [made.spectrum("sgd", seed, step) for seed in (0, 1) for step in (5, 10)])
    found = {(r["quantity"], r["value"]) for r in drawing.rows}
    assert found == {("lambda_1", 2.0), ("lambda_5", 0.05), ("ratio", 40.0)}
    assert len(drawing.rows) == 12
