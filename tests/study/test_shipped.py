"""Every experiment that is installed, in its tiny size: it runs, and what it asks has numbers with intervals."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from landscape.figures.render import render
from landscape.report.study_tables import tables
from landscape.specs.study import Experiment
from landscape.study.shipped import find, shipped
from landscape.study.study import StudyFolder, run, statistics

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", list(shipped()))
def test_a_tiny_study_has_a_table_with_intervals_and_a_figure(name: str, tmp_path: Path):
    experiment = Experiment.read(find(name), size="tiny")
    folder = StudyFolder(tmp_path / name)
    now = run(experiment, folder)
    assert now["failures"] == []
    assert now["done"] == len(experiment.cells)
    record = statistics(experiment, folder).record
    asked = [q for q in experiment.report.compare_by if "accuracy" not in q]
    compared = {p["quantity"]: p for p in record["comparison"]["pairs"]}
    correlated = [r for r in record["correlations"] if r["kind"] == "measure" and r["tau_low"] is not None]
    if asked:
        assert set(asked) <= set(compared)
        for pair in record["comparison"]["pairs"]:
            assert pair["n"] >= 6
            assert pair["effect"] is not None
            assert pair["effect"]["low"] <= pair["effect"]["mean"] <= pair["effect"]["high"]
            assert pair["verdict"] in ("higher", "lower", "cannot tell", "equal")
    assert asked or correlated or compared
    for row in correlated:
        assert -1 <= row["tau_low"] <= row["tau_high"] <= 1
    made = {t.stem: t for t in tables(record)}
    assert made["methods"].rows
    kind = "study-methods" if compared else "study-forest"
    *_, numbers = render(kind, [statistics(experiment, folder)], tmp_path / "figures", formats=("png",))
    with open(numbers, encoding="utf-8", newline="") as handle:
        assert len(list(csv.DictReader(handle))) > 0


def test_disam_on_one_domain_is_sam_to_the_last_bit(tmp_path: Path):
    experiment = Experiment.read(find("disam-one-domain"), size="tiny")
    folder = StudyFolder(tmp_path / "s")
    run(experiment, folder)
    record = statistics(experiment, folder).record
    for pair in record["comparison"]["pairs"]:
        assert set(pair["differences"]) == {0.0}
        assert pair["verdict"] == "equal"
    hashes: dict[int, set[str]] = {}
    for model in record["models"]:
        hashes.setdefault(model["repetition"], set()).add(model["weights_hash"])
    assert all(len(h) == 1 for h in hashes.values())


def test_lambda_0_of_disam_and_alpha_0_of_sagm_are_in_their_studies():
    """The settings that claims are held against are trained, not taken from elsewhere."""
    for name, axis in (("disam-lambda", "lam"), ("sagm-alpha", "alpha"), ("sam-rho", "rho")):
        experiment = Experiment.read(find(name))
        assert 0.0 in {c.axes[axis] for c in experiment.cells}
        assert experiment.report.baseline == f"{axis}=0.0"
