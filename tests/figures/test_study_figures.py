"""The figures and the report of a study, from a table made by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from study.planted import grid, table

from landscape.base.errors import UsageError
from landscape.figures.draw.style import Style
from landscape.figures.render import drawable, fitting, image, render
from landscape.registry import FIGURES
from landscape.report.study import write_study_report
from landscape.report.study_tables import tables
from landscape.results.result import Result
from landscape.specs.study import StudyReportSpec
from landscape.study.study import describe

KINDS = [k for k in FIGURES if k.startswith("study-")]
HOSTILE = "</script><img src=x onerror=alert(1)>"


def made(*, few: bool = False, hostile: str = "") -> Result:
    """48 models (or 4) of two optimizers; one measure is the gap plus noise, one is random."""
    g = np.random.default_rng(0)
    rows = [
        ({"optimizer": o, **axes, "rho": rho}, s)
        for axes, s in grid([0.02, 0.05, 0.1], [16, 64], 1 if few else 4)
        for o, rho in (("sgd", None), (f"sam{hostile}", 0.05))
    ][: 4 if few else None]
    gap = g.normal(size=len(rows)) + np.array([axes["lr"] for axes, _ in rows])
    outcomes = {"gap_loss": gap, "unseen_gap_loss": -gap + g.normal(size=len(gap)), "gap_error": gap / 10}
    outcomes |= {"test_accuracy": 0.9 - gap / 50, "train_loss": np.full(len(gap), 0.01)}
    measures = {
        f"m-sharpness m=1 rho=0.1{hostile}": np.exp(gap + 0.3 * g.normal(size=len(gap))),
        "lambda_1": np.exp(g.normal(size=len(gap))),
    }
    spec = StudyReportSpec(bootstrap=300, permutations=100, outcomes=("gap_loss", "gap_error", "unseen_gap_loss"))
    facts = {
        "study": "made", "title": f"Made by hand {hostile}", "claim": "It is there.", "refuted_by": "It is not.",
        "decides": "48 models.", "planned": 50, "stop_at": 0.01, "selection": ["last"], "seeds": {}, "size": "full",
        "experiment": {},
    }  # fmt: skip
    return describe(table(rows, outcomes, measures), spec, facts)


@pytest.fixture(scope="module")
def study() -> Result:
    return made()


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_a_study_hold_their_numbers_and_are_the_same_bytes_again(kind: str, study: Result, tmp_path: Path):
    pdf, _, table_file = render(kind, [study], tmp_path, formats=("pdf",))
    drawing = FIGURES.load(kind)([study], Style())
    assert image(drawing, "pdf", Style(), kind, [study]) == pdf.read_bytes()
    with open(table_file, encoding="utf-8", newline="") as handle:
        assert len(list(csv.DictReader(handle))) == len(drawing.rows) > 0
    assert drawing.notes


def test_the_forest_has_every_interval(study: Result):
    drawing = FIGURES.load("study-forest")([study], Style())
    rows = {(r["measure"], r["outcome"]): r for r in drawing.rows}
    stored = {(r["measure"], r["outcome"]): r for r in study["correlations"] if r["tau"] is not None}
    assert set(rows) == set(stored)
    for key, row in rows.items():
        assert (row["tau"], row["tau_low"], row["verdict"]) == tuple(
            stored[key][k] for k in ("tau", "tau_low", "verdict")
        )
    assert rows["m-sharpness m=1 rho=0.1", "gap_loss"]["verdict"] == "predicts"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_few_models_and_names_of_users_break_no_figure(kind: str):
    for result in (made(few=True), made(few=True, hostile="$_{%数字")):
        FIGURES.load(kind)([result, result], Style("icml"))


def test_a_study_draws_nothing_else(study: Result):
    assert drawable([study]) == KINDS
    with pytest.raises(UsageError, match="landscape study correlate"):
        fitting("study-forest", [])


@pytest.mark.slow
def test_the_report_is_a_page_with_tables_for_papers(study: Result, tmp_path: Path):
    outputs = write_study_report(study, tmp_path)
    assert {p.name for p in outputs} == {p.name for p in tmp_path.iterdir()}
    page = outputs[0].read_text()
    assert "m-sharpness m=1 rho=0.1 predicts the in-domain loss gap: sharper is worse" in page
    assert "48 of 50 models are compared" in page
    assert "It is not." in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for stem in ("correlations-gap_loss", "settings", "sign-errors", "methods", "pairs"):
        tex = (tmp_path / f"{stem}.tex").read_text()
        assert r"\toprule" in tex
        assert tex.count("{") == tex.count("}")
        with open(tmp_path / f"{stem}.csv", encoding="utf-8", newline="") as handle:
            assert len(list(csv.DictReader(handle))) > 0
    assert "standard deviation (ddof = 1)" in (tmp_path / "methods.tex").read_text()
    assert r"$\tau$" in (tmp_path / "settings.tex").read_text()


@pytest.mark.slow
def test_what_users_name_never_runs(tmp_path: Path):
    page = write_study_report(made(few=True, hostile=HOSTILE), tmp_path)[0].read_text()
    assert HOSTILE not in page
    assert "&lt;img" in page


def test_tables_of_few_models_say_that_they_cannot_tell():
    found = {t.stem: t for t in tables(made(few=True).record)}
    assert {row[-1] for row in found["correlations-gap_loss"].cells} >= {"cannot tell"}
    assert all(len(row) == len(t.headers) for t in found.values() for row in t.cells)


def test_a_stored_study_is_the_same(study: Result, tmp_path: Path):
    study.save(tmp_path / "study.nc")
    again = Result.load(tmp_path / "study.nc")
    assert again.record == study.record
    assert np.array_equal(again.data["value"].values, study.data["value"].values)
