"""What lies beside a figure, and what makes it fit for print: captions, numbers, colours, smoothness."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from figures import awkward, made
from landscape.base.errors import UsageError
from landscape.figures.draw.domain_styles import domain_looks
from landscape.figures.draw.latex import figure_tex
from landscape.figures.draw.style import VENUES, Style
from landscape.figures.draw.tables import latex_text
from landscape.figures.draw.text import text_inches, wrapped
from landscape.figures.draw.ticks import number_text, numbers_text
from landscape.figures.draw.words import apart, domain, measure, method, methods, quantity
from landscape.figures.natural import natural
from landscape.figures.planes.interactive import CONFIG
from landscape.figures.planes.levels import level_text, loss_levels
from landscape.figures.planes.smooth import smooth
from landscape.figures.render import drawable, fitting, render
from landscape.registry import FIGURES
from landscape.results.result import Result

KINDS = list(FIGURES)


def drawing(kind: str, results: list[Result] | None = None, style: Style | None = None):
    given = results or ([awkward.study()] if kind.startswith("study-") else made.everything())
    return FIGURES.load(kind)(fitting(kind, given), style or Style())


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_explains_the_marks_and_latex_can_read_it(kind: str):
    drawn = drawing(kind)
    assert len(drawn.caption) > 80
    assert drawn.caption.endswith(".")
    text = figure_tex(kind, "pdf", Style("icml", 2), drawn.caption, drawn.notes)
    assert rf"\includegraphics{{{kind}.pdf}}" in text
    assert r"\begin{figure*}" in text
    assert max(map(ord, text)) < 0x180  # every letter is one that any LaTeX knows
    for opened, closed in ("{}", (r"\begin{", r"\end{")):
        assert text.count(opened) == text.count(closed)
    assert text.replace(r"\$", "").count("$") % 2 == 0
    for note in drawn.notes:
        if not re.match(r"(line|bar|marker|dot|curve|band): ", note):  # the caption says these in its own words
            assert latex_text(note[1:12]) in text


def test_latex_of_hostile_names_is_only_text(tmp_path: Path):
    name = r"\input{/etc/passwd} 50% $x_1^2$ ~#&{ 数"
    text = figure_tex("a_b", "png", Style(), "Loss.", [name])
    assert r"\input" not in text
    assert r"\textbackslash{}input\{/etc/passwd\} 50\% \$x\_1\textasciicircum{}2\$" in text
    assert "[U+6570]" in text
    assert r"\begin{figure}[t]" in figure_tex("a", "png", Style("neurips", 2), "", [])  # a page of one column


def test_numbers_have_real_minus_signs_and_no_small_exponents():
    assert [number_text(v) for v in (-2, 0.05, 1e-7, -3e12, 0.0)] == ["−2", "0.05", "1e−7", "−3e12", "0"]
    assert numbers_text([-1.0, -0.5, 0.0, 0.5]) == ["−1.0", "−0.5", "0.0", "0.5"]
    assert numbers_text([-0.5, 0.5]) == ["−0.5", "0.5"]
    assert numbers_text([1e-8, 2e-8]) == ["1e−8", "2e−8"]
    assert numbers_text([2.25, 2.5, 2.75]) == ["2.25", "2.50", "2.75"]
    assert len(set(numbers_text([1e6 + 1, 1e6 + 2, 1e6 + 3]))) == 3


def test_names_of_the_code_become_words():
    assert method("sam rho=0.03") == "SAM, ρ = 0.03"
    assert method("SAM (label_noise=0.4)") == "SAM (label noise 0.4)"
    assert method("sam rho=0.03 (stop_at=0.1)") == "SAM, ρ = 0.03 (stop at 0.1)"
    assert method("sam (stop_at=0.1)") == "SAM (stop at 0.1)"
    assert method("my_model.pt") == "my_model.pt"
    assert measure("m-sharpness m=1 rho=0.01") == "m-sharpness, m = 1, ρ = 0.01"
    assert measure("m-sharpness (m = 4, rho = 0.05)") == "m-sharpness, m = 4, ρ = 0.05"
    assert measure("lambda_1") == "λ₁"
    assert quantity("lr") == "learning rate"
    assert quantity("batch_size") == "batch size"
    assert domain("art_painting") == "art painting"
    assert domain("_x") == "_x"


def test_lines_are_broken_where_words_end():
    with Style().applied():
        told = wrapped("m-sharpness, m = 16, ρ = 0.01", 1.0, 7)
        assert told == "m-sharpness, m = 16,\nρ = 0.01"
        assert all(text_inches(line, 7) <= 1.0 for line in told.split("\n"))
        assert wrapped("a" * 60, 1.0, 7).count("\n") > 1
        assert "\n" not in wrapped("Entropy-SGD", 0.1, 7)


# -- domains are told apart ----------------------------------------------------------------------------------------

# Machado et al. 2009, full severity.
EYES = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colour: str, eyes: str) -> np.ndarray:
    """CIELAB of a colour."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(EYES[eyes]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("count", range(1, 8))
def test_domains_differ_to_every_eye_and_in_grey(count: int):
    looks = list(domain_looks("abcdefg"[:count]).values())
    assert len({look.marker for look in looks}) == count
    for eyes in EYES:
        colours = np.array([seen(look.colour, eyes) for look in looks])
        apart = [np.linalg.norm(a - b) for i, a in enumerate(colours) for b in colours[i + 1 :]]
        assert min(apart, default=99) > 8
    grey = sorted(seen(look.colour, "all")[0] for look in looks)
    assert min(np.diff(grey), default=99) > 8
    assert max(grey) < 82  # on white paper


def test_many_domains_still_differ_by_colour_or_marker():
    looks = domain_looks(map(str, range(20)))
    assert len({(look.colour, look.marker) for look in looks.values()}) == 20


def test_the_report_draws_domains_in_the_colours_of_the_figures():
    from landscape.report.explore import explorable

    curves = explorable([made.domain_curves("sgd", 0)])["curves"]
    shown = {line["domain"]: line["colour"] for line in curves["panels"][0]["lines"]}
    assert shown == {name: look.colour for name, look in domain_looks("pqr").items()}
    lines = drawing("domain-curves", [made.domain_curves("sgd", 0)]).figure.axes[2].lines
    assert [line.get_color() for line in lines] == list(shown.values())


# -- contours ------------------------------------------------------------------------------------------------------


def test_smooth_surfaces_pass_through_their_points_and_invent_no_valley():
    rng = np.random.default_rng(0)
    x, y = np.linspace(-1, 1, 9), np.linspace(-2, 2, 7)
    height = rng.normal(size=(7, 9))
    fine_x, fine_y, fine = smooth(x, y, height)
    at = np.ix_([np.abs(fine_y - v).argmin() for v in y], [np.abs(fine_x - v).argmin() for v in x])
    assert np.allclose(fine[at], height, atol=1e-9)
    assert fine.min() >= height.min() - 1e-12
    assert fine.max() <= height.max() + 1e-12
    bowl = x[None, :] ** 2 + y[:, None] ** 2
    exact = fine_x[None, :] ** 2 + fine_y[:, None] ** 2
    assert np.abs(smooth(x, y, bowl)[2] - exact).max() < 0.15


def test_cells_that_touch_nothing_finite_stay_empty():
    height = np.add.outer(np.arange(5.0), np.arange(6.0))
    height[2, 3] = np.inf
    x, y, fine = smooth(np.arange(6), np.arange(5), height)
    hole = (np.abs(x[None, :] - 3) < 1 - 1e-9) & (np.abs(y[:, None] - 2) < 1 - 1e-9)
    assert np.array_equal(np.isnan(fine), hole)
    assert np.isnan(smooth(np.arange(6), np.arange(5), height * np.nan)[2]).all()


@pytest.mark.parametrize(("low", "high"), [(-2.4, 1.2), (-9, 4), (-0.1, 0.05), (-300, 300), (0.0, 0.61)])
def test_levels_are_round_losses_inside_the_data(low: float, high: float):
    levels = loss_levels(low, high)
    assert 2 <= len(levels) <= 25
    assert levels.min() > low
    assert levels.max() < high
    if -5 < low < high < 5:
        for level in levels:
            assert float(level_text(level).replace("−", "-")) == pytest.approx(10**level, rel=1e-9)


def test_numbers_on_lines_stay_off_the_border_and_off_the_cross():
    figure = drawing("contour", [made.plane("sgd", 0), made.plane("sam", 0)]).figure
    numbers = 0
    for axes in figure.axes[:2]:
        frame, middle = axes.get_window_extent(), axes.transData.transform((0, 0))
        for text in axes.texts:
            box = text.get_window_extent()
            numbers += 1
            assert frame.x0 < box.x0 < box.x1 < frame.x1
            assert frame.y0 < box.y0 < box.y1 < frame.y1
            assert not box.contains(*middle)
    assert numbers >= 2


def test_points_of_the_grid_are_marked_on_request():
    def dots(style: Style) -> int:
        lines = drawing("contour", [made.plane("sgd", 0)], style).figure.axes[0].lines
        return sum(len(line.get_xdata()) == 35 for line in lines)

    assert (dots(Style()), dots(Style(points=True))) == (0, 1)


def test_still_surfaces_have_a_label_and_a_floor_in_both_heights():
    for height in ("log", "linear"):
        axes = drawing("surface3d", [made.plane("sgd", 0)], Style(height=height)).figure.axes[0]
        assert axes.get_zlabel() == "loss"
        assert len([c for c in axes.collections if "Contour" in type(c).__name__]) == 2
    with pytest.raises(UsageError, match="log or linear"):
        Style(height="square")


# -- what is drawn, and by what ------------------------------------------------------------------------------------


def test_what_says_nothing_is_drawn_only_by_its_name():
    one = made.sharpness("sam", 0)
    assert drawable([one]) == ["m-sharpness"]
    one.data = one.data.isel(m=slice(1))
    assert drawable([one]) == []
    assert drawing("m-sharpness", [one]).rows
    assert "merge-tree" not in drawable([made.plane("sgd", 0)])
    assert "merge-tree" in drawable([made.plane("sgd", 0, np.random.default_rng(0).random((5, 7)))])
    assert "domain-surfaces" not in drawable([made.plane("sgd", 0, names=("p",))])
    ended = [made.training("sam", 0), made.training("sgd", 0)]
    assert "accuracy-radius" not in drawable(ended)
    ended.append(made.training("sam", 0))
    ended[-1].record["spec"]["rho"] = 0.1
    assert "accuracy-radius" in drawable(ended)


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (made.hessian("sgd", 0), "eigenvalues"), (made.spectrum("sgd", 0), "spectra"),
        (made.sharpness("sgd", 0), "m-sharpness"), (made.plane("sgd", 0), "contour"), (made.line("sgd", 0), "slice"),
        (made.trajectory("sgd", 0), "plane"), (made.between("sgd", 0), "path"), (made.domains("sgd", 0), "domains"),
        (made.domain_curves("sgd", 0), "domain-curves"), (made.training("sgd", 0), "training"),
    ],
)  # fmt: skip
def test_a_result_draws_itself_as_its_natural_kind(result: Result, kind: str):
    assert natural(result) == kind
    figure = result.plot(venue="icml", columns=2)
    assert figure.get_figwidth() == VENUES["icml"].widths[1]


def test_a_drawn_result_shows_itself_in_a_notebook():
    """Which asks for `_repr_png_`; of a figure that pyplot does not know it would else print the name."""
    figure = made.plane("sgd", 0).plot(venue="icml")
    data, facts = figure._repr_png_()
    image = Image.open(io.BytesIO(data))
    assert image.width == pytest.approx(2 * facts["width"], abs=2)
    assert image.width / image.height == pytest.approx(facts["width"] / facts["height"], rel=0.02)


def test_a_result_draws_itself_as_another_kind_or_says_why_not():
    figure = made.plane("sgd", 0).plot("surface3d")
    assert figure.axes[0].name == "3d"
    with pytest.raises(UsageError, match="nothing to draw"):
        made.plane("sgd", 0).plot("eigenvalues")
    with pytest.raises(UsageError, match="unknown figure"):
        made.plane("sgd", 0).plot("eigenvalue")


@pytest.mark.parametrize("kind", ["surface3d", "surface-movie", "trajectory-movie"])
def test_no_page_offers_to_send_its_numbers_anywhere(kind: str, tmp_path: Path):
    (page, _) = render(kind, made.everything(), tmp_path, formats=("html",))
    text = page.read_text(encoding="utf-8")
    call = text[text.rindex("Plotly.newPlot(") :]
    (config,) = re.findall(r'\{"displaylogo"[^}]*\}', call)
    assert json.loads(config) == CONFIG
    assert CONFIG["showSendToCloud"] is False
    assert CONFIG["displaylogo"] is False


def test_the_report_offers_it_neither(tmp_path: Path):
    from landscape import write_report

    page = write_report([made.plane("sgd", 0)], tmp_path / "report.html", title="one").read_text(encoding="utf-8")
    config = re.search(r"const config = (\{[^}]*\})", page)
    assert config is not None
    assert "showSendToCloud: false" in config.group(1)
    assert "displaylogo: false" in config.group(1)


def test_settings_that_stand_in_one_figure_say_what_differs() -> None:
    clear, blurred = (f"disam (data_arg=n=600 domains=4 overlap={x})" for x in (0.0, 0.3))
    assert methods([clear, blurred]) == ["DISAM (overlap 0.0)", "DISAM (overlap 0.3)"]
    assert methods(["sam", clear]) == ["SAM", method(clear)]
    assert methods(["sam (lr=0.1, rho=0.1)", "sam (lr=0.1, rho=0.2)"]) == ["SAM (ρ = 0.1)", "SAM (ρ = 0.2)"]
    assert methods(["sam (rho=0.1)", "asam (rho=0.1)"]) == ["SAM (ρ = 0.1)", "ASAM (ρ = 0.1)"]
    assert apart(["overlap=0.3"]) == ["overlap=0.3"]
    assert apart([]) == []


@pytest.mark.parametrize("kind", ["slice", "domains", "path"])
def test_accuracies_are_per_cent_in_every_figure(kind: str):
    results = [{"slice": made.line, "domains": made.domains, "path": made.between}[kind]("sam", 0)]
    figure = FIGURES.load(kind)(results, Style("icml")).figure
    figure.canvas.draw()
    [axes] = [a for a in figure.axes if a.get_ylabel() == "accuracy (%)"]
    ticks = [float(t.get_text().replace("−", "-")) for t in axes.get_yticklabels()]
    assert ticks == pytest.approx([100 * v for v in axes.get_yticks()])
    assert max(ticks) > 50


def test_a_cosine_that_rounds_to_zero_has_no_sign():
    result = made.domains("sam", 0)
    result.data["gradient_cosine"].values[0, 1] = -0.001
    figure = FIGURES.load("domain-matrix")([result], Style("icml")).figure
    words = {t.get_text() for axes in figure.axes for t in axes.texts}
    assert ".00" in words
    assert "−.00" not in words


def test_accuracy_of_a_twin_slice_is_told_from_the_loss_of_a_grey_method():
    figure = FIGURES.load("twin-slice")([made.line("sgd-2x", 0)], Style("icml")).figure
    widths = [{line.get_linewidth() for line in axes.lines} for axes in figure.axes]
    loss, accuracy = (w for w in widths if w)
    assert max(accuracy) < 0.5 * min(loss)
