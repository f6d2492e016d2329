"""Surfaces along other directions, over another range or on another grid are never drawn side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from figures import made
from landscape.base.errors import UsageError
from landscape.figures.draw.comparable import along, comparable
from landscape.figures.draw.panels import Panels
from landscape.figures.draw.style import Style
from landscape.figures.render import fitting, render, write
from landscape.registry import FIGURES
from landscape.results.result import Result

EIGENVECTOR = [
    {"direction": "eigvec:1", "norm": 1.0, "seed": None},
    {"direction": "sam:0.05", "rho": 0.05, "seed": None},
]
SURFACES = ("contour", "surface3d", "domain-surfaces", "merge-tree")


def special(label: str, seed: int = 0, **more: object) -> Result:
    return made.plane(label, seed, axes=EIGENVECTOR, **more)


def stretched(label: str, by: float = 2.0) -> Result:
    result = made.plane(label, 0)
    return Result("surface", result.data.assign_coords(x=by * result.data["x"]), result.record)


def coarse(label: str) -> Result:
    result = made.plane(label, 0)
    return Result("surface", result.data.isel(x=slice(None, None, 2)), result.record)


@pytest.mark.parametrize("kind", SURFACES)
@pytest.mark.parametrize(
    ("other", "told"),
    [
        (special, "the directions filter (seed 0, 0) and filter (seed 0, 1), not eigvec:1 and sam:0.05"),
        (stretched, "the range and the grid −1 to 1 in 7 points"),
        (coarse, "in 4 points"),
    ],
)
def test_one_group_is_drawn_and_what_is_left_out_is_said(kind: str, other, told: str):
    results = [made.plane("sgd", 0), made.plane("sagm", 0), other("sam")]
    drawing = FIGURES.load(kind)(fitting(kind, results), Style())
    assert {row["label"] for row in drawing.rows} == {"sgd", "sagm"}
    (note,) = [n for n in drawing.notes if "not drawn beside the others" in n]
    assert told in note
    assert note in drawing.warned


def test_of_two_groups_that_of_more_methods_is_drawn_and_of_equal_ones_the_random_directions():
    random = [made.plane("sgd", 0), made.plane("sagm", 0)]
    assert comparable([*(special("sam", seed) for seed in range(3)), *random])[0] == random
    kept = comparable([special("sam"), made.plane("sgd", 0)])[0]
    assert [r.label for r in kept] == ["sgd"]
    kept = comparable([special("sam"), special("sgd"), made.plane("sgd", 0)])[0]
    assert [r.label for r in kept] == ["sam", "sgd"]


def test_other_seeds_of_random_directions_are_other_directions():
    other = made.plane("sam", 0)
    other.record["axes"] = [{**a, "seed": 1} for a in other.record["axes"]]
    kept, notes = comparable([made.plane("sgd", 0), made.plane("sagm", 0), other])
    assert [r.label for r in kept] == ["sgd", "sagm"]
    assert "seed 1" in notes[0]


def test_slices_along_more_directions_are_not_those_along_fewer():
    drawing = FIGURES.load("slice")([made.line("sgd", 0), made.line("sam", 0), made.line("sagm", 0, 2)], Style())
    assert {row["label"] for row in drawing.rows} == {"sgd", "sam"}
    assert any("the directions 3 of filter (seed 0)" in n for n in drawing.notes)


def test_a_direction_can_be_chosen(tmp_path: Path):
    results = [made.plane("sgd", 0), made.plane("sagm", 0), special("sam"), made.hessian("sgd", 0)]
    assert along(results, None) == results
    assert along(results, "eigvec:1") == along(results, "sam") == results[2:]
    table = render("contour", results, tmp_path, formats=("png",), direction="eigvec:1")[-1]
    assert {line.partition(",")[0] for line in table.read_text().splitlines()[1:]} == {"sam"}
    with pytest.raises(UsageError, match=r"no surface is cut along 'grad'.*there is: eigvec:1, filter, sam:0.05"):
        along(results, "grad")
    assert along([results[-1]], "grad") == [results[-1]]  # other analyses have no directions


def test_panels_of_a_page_are_one_group_too():
    shown = Panels.of([made.plane("sgd", 0), made.plane("sagm", 0), special("sam")])
    assert [p.label for p in shown.panels] == ["sgd", "sagm"]


def test_a_movie_shows_one_way_of_looking():
    moving = [made.over_training("sgd", 0), made.plane("sgd", 0)]
    turned = [special("sam", 0), special("sam", 0)]
    turned[1].record["run"] = {**turned[1].record["run"], "step": 20}
    still = made.over_training("sagm", 0)
    still.record["axes"] = EIGENVECTOR
    fit = fitting("surface-movie", [*moving, *turned, still])
    assert fit == [*moving, *turned]  # one frame of its own is no movie
    assert {row["label"] for row in FIGURES.load("surface-movie")(fit, Style()).rows} == {"sgd"}


def test_notes_reach_who_writes_the_figure(tmp_path: Path):
    options = {"formats": ("png", "html", "gif"), "style": Style(), "skip": True}
    made_of = write("contour", [made.plane("sgd", 0), special("sam")], tmp_path, **options)
    assert [p.name for p in made_of.paths] == ["contour.png", "contour.tex", "contour.csv"]
    assert "a contour figure has no html form" in made_of.notes
    assert "a contour figure does not move" in made_of.notes
    assert any("eigvec:1" in n for n in made_of.told)
    assert write("contour", [made.plane("sgd", 0)], tmp_path / "no", **{**options, "formats": ("gif",)}).paths == []
    assert not (tmp_path / "no").exists()


def test_grids_that_are_not_even_are_told_apart():
    uneven = made.plane("sam", 0)
    x = np.asarray(uneven.data["x"].values).copy()
    x[1] += 0.1
    uneven = Result("surface", uneven.data.assign_coords(x=x), uneven.record)
    assert len(comparable([made.plane("sgd", 0), uneven])[0]) == 1
