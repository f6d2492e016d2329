"""Every kind of figure can be printed as it is, at one and two columns of every venue: read from the drawn text."""

from __future__ import annotations

from functools import cache

import matplotlib.pyplot as plt
import pytest

from figures import awkward, made
from figures.layout import Box, boxes, faults, overlap
from landscape.base.errors import UsageError
from landscape.figures.draw.style import VENUES, Style
from landscape.figures.render import fitting
from landscape.registry import FIGURES
from landscape.results.result import Result

PLANES = {"contour", "domain-surfaces", "plane", "surface-movie", "trajectory-movie"}
CASES = {"usual": awkward.usual, "many": awkward.many, "single": awkward.single}
STUDIES = {"many": "flatness-vs-generalization", "usual": "sam-label-noise", "single": "disam-frozen-body"}
# Venues of the same sizes are looked at once; narrow pages with what is hardest to lay out.
PAGES = {(venue.widths[c - 1], venue.text): (name, c) for name, venue in VENUES.items() for c in (2, 1)}


@cache
def results(case: str) -> tuple[Result, ...]:
    return tuple(CASES[case]())


def wrong(kind: str, case: str, venue: str, columns: int) -> list[str]:
    given = [awkward.study(STUDIES[case])] if kind.startswith("study-") else list(results(case))
    try:
        fit = fitting(kind, given)
    except UsageError:
        assert case == "single" or kind.startswith("study-"), kind
        return []
    style = Style(venue, columns)
    return faults(FIGURES.load(kind)(fit, style).figure, style.width, equal=kind in PLANES)


@pytest.mark.parametrize(("kind", "case"), [
    ("spectra", "usual"), ("study-forest", "many"), ("study-settings", "many"), ("study-scatter", "many"),
    ("domain-surfaces", "usual"), ("m-sharpness", "many"), ("domain-sharpness", "many"), ("gradient-angle", "many"),
    ("unseen", "many"), ("contour", "many"), ("plane", "many"), ("eigenvalues", "many"), ("surface3d", "single"),
    ("group-spectra", "many"), ("group-spectra", "single"), ("error-reduction", "many"), ("domain-matrix", "single"),
    ("path", "usual"), ("training", "usual"),
])  # fmt: skip
def test_a_figure_of_one_column_is_laid_out(kind: str, case: str):
    assert wrong(kind, case, "icml", 1) == []


@pytest.mark.slow
@pytest.mark.parametrize("page", list(PAGES.values()), ids=lambda p: f"{p[0]}-{p[1]}")
@pytest.mark.parametrize("kind", list(FIGURES))
def test_every_figure_is_laid_out_on_every_page(kind: str, page: tuple[str, int]):
    cases = {1: ("many", "single"), 2: ("usual",)}[page[1]]
    assert {case: wrong(kind, case, *page) for case in cases} == {case: [] for case in cases}


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("story", ["demo", "pacs", "published-resnets", "rescaling", "spectrum-over-training"])
def test_stored_results_are_laid_out(story: str, columns: int):
    found = awkward.stored(story, "*.nc")
    style = Style("icml", columns)
    for kind in FIGURES:
        try:
            fit = fitting(kind, found)
        except UsageError:
            continue
        figure = FIGURES.load(kind)(fit, style).figure
        assert faults(figure, style.width, equal=kind in PLANES) == [], kind


# -- that the test sees what is wrong ------------------------------------------------------------------------------


def figure(**texts: object):
    drawn, axes = plt.subplots(figsize=(3, 2))
    plt.close(drawn)
    axes.set_axis_off()
    return drawn, axes


def test_a_text_over_another_is_seen():
    drawn, axes = figure()
    axes.text(0.4, 0.5, "first")
    axes.text(0.45, 0.52, "second")
    assert faults(drawn, 3) == ["overlap: 'first' and 'second'"]


def test_slanted_texts_side_by_side_do_not_overlap():
    drawn, axes = figure()
    for i in range(3):
        axes.text(0.2 + 0.2 * i, 0.3, "a slanted name", rotation=45, rotation_mode="anchor", fontsize=8)
    assert faults(drawn, 3) == []
    first, second, _ = boxes(drawn)
    assert overlap(first, second) < 0 < overlap(first, first)


@pytest.mark.parametrize(("words", "told"), [
    ("a long text that does not end where the page does, far from it", "leaves the page"),
    ("label_noise=0.4", "is a name of the code"), ("lambda_1", "is a name of the code"),
    ("from -1 to 1", "has a hyphen for a minus"), ("average-case-adap…", "is cut"), ("$10^{-2}$", "7.0 pt"),
])  # fmt: skip
def test_words_that_do_not_belong_into_print_are_seen(words: str, told: str):
    drawn, axes = figure()
    axes.text(0.1, 0.5, words, fontsize=9.0 if "$" not in words else 9.9)
    found = faults(drawn, 3)
    assert any(told in fault or ("pt" in told and " pt: " in fault) for fault in found), found


def test_small_letters_high_pages_and_unequal_axes_are_seen():
    drawn, axes = plt.subplots(figsize=(3, 9.5))
    plt.close(drawn)
    axes.contourf([[0, 1], [1, 2]])
    axes.set_xlabel("words", fontsize=6)
    told = " ".join(faults(drawn, 4, equal=True))
    assert "3.00 in wide, not 4.00" in told
    assert "9.50 in high" in told
    assert "6.0 pt: 'words'" in told
    assert "unequal aspect" in told


def test_a_label_cut_by_its_axes_is_seen():
    drawn, axes = figure()
    axes.text(0.95, 0.5, "over the edge", clip_on=True)
    assert any(fault.startswith("is cut") for fault in faults(drawn, 3))
    assert isinstance(boxes(drawn)[0], Box)


def test_panels_without_room_are_left_out_and_said():
    drawing = FIGURES.load("domain-surfaces")(fitting("domain-surfaces", list(results("many"))), Style("icml"))
    assert any("networks are not drawn: there is no room" in note for note in drawing.notes)
    assert {row["label"] for row in drawing.rows} < set(awkward.METHODS)


def test_a_figure_is_drawn_alike_under_its_owners_settings():
    drawing = FIGURES.load("eigenvalues")([made.hessian("sgd", 0)], Style("icml"))
    with plt.rc_context({"font.family": "monospace", "font.size": 30}):
        assert faults(drawing.figure, 3.25) == []
