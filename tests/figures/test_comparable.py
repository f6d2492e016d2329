"""What was looked at in different ways is not drawn side by side: the most that agree are, and the notes say so."""

from __future__ import annotations

import pytest

from figures import made
from landscape.figures.draw.comparable import CONDITIONS, comparable
from landscape.figures.draw.drawing import Drawing
from landscape.figures.draw.style import Style
from landscape.figures.render import fitting
from landscape.registry import FIGURES
from landscape.results.result import Result


def of(label: str, seed: int, **conditions: object) -> Result:
    result = made.hessian(label, seed)
    result.record |= conditions
    return result


OTHER = {
    "loss_function": "mse",
    "loss_hash": "another file",
    "loss_over": "batch",
    "operator": "ggn",
    "mode": "train",
    "replay_seed": 3,
    "params": "^head",
    "dtype": "float64",
    "weight_decay": 0.1,
}
USUAL = {"loss_function": "cross_entropy", "loss_hash": "a file", "mode": "eval", "dtype": "float32"}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_result_of_another_condition_is_left_out_and_said(condition: str):
    alike = [of("sgd", 0, **USUAL), of("sgd", 1, **USUAL), of("sam", 0, **USUAL)]
    other = of("sam", 1, **{**USUAL, condition: OTHER[condition]})
    kept, notes = comparable([alike[0], other, *alike[1:]])
    assert kept == alike
    assert len(notes) == 1
    assert notes[0].startswith(f"1 hessian result(s) are not drawn beside the others: {CONDITIONS[condition][0]}")


def test_every_condition_is_tried():
    assert set(OTHER) == set(CONDITIONS)


def test_results_that_say_nothing_are_what_was_usual_then():
    old, new = of("sgd", 0), of("sam", 0)
    new.record |= {"loss_over": "example", "mode": "eval"}
    assert comparable([old, new]) == ([old, new], [])


def test_kinds_are_compared_within_themselves():
    curvature, rise = of("sgd", 0, mode="train"), made.sharpness("sgd", 0)
    assert comparable([curvature, rise])[0] == [curvature, rise]


def test_a_figure_draws_what_can_be_compared(caplog: pytest.LogCaptureFixture):
    results = [of("sgd", 0), of("sgd", 1), of("sam", 0), of("sam", 1, mode="train")]
    drawing: Drawing = FIGURES.load("eigenvalues")(fitting("eigenvalues", results), Style())
    seeds = {(row["label"], row["seed"]) for row in drawing.rows}
    assert ("sam", 1) not in seeds
    assert {("sgd", 0), ("sgd", 1), ("sam", 0)} <= seeds
    assert any("the mode eval, not train" in note for note in drawing.notes)
    assert "1 hessian result(s) are not drawn beside the others: the mode eval, not train" in caplog.text
