"""Another distribution adds one of each kind by one entry point; no file of ours is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

OPTIMIZER = '''
"""Lookahead around SAM: every k steps the weights go half way back to where they were k steps ago."""
import torch
from landscape.optim import SAM


class LookaheadSAM(SAM):
    """SAM, and every ``k`` steps w <- slow + (w - slow)/2 (Zhang et al. 2019, arXiv 1907.08610)."""

    k = 3

    def __init__(self, base, rho=0.05, **common):
        super().__init__(base, rho, **common)
        self.slow, self.made = None, 0

    def base_step(self):
        if self.slow is None:
            self.slow = [p.detach().clone() for p in self.parameters()]
        super().base_step()
        self.made += 1
        if self.made % self.k == 0:
            with torch.no_grad():
                for p, s in zip(self.parameters(), self.slow):
                    s.add_((p - s) / 2)
                    p.copy_(s)
'''
MEASURE = '''
"""The largest weight, in units of the norm of all."""
from landscape.measures.engine.measurement import Measurement


def largest_weight(problem, spec, seed):
    """max |w_i| / |w|."""
    w = problem.weights
    yield Measurement(value=float(w.abs().max() / w.norm()) * FACTOR)


FACTOR = 1.0
'''
FIGURE = '''
"""A measure of sharpness as points."""
from landscape.figures.draw.drawing import Drawing, Want, styled

WANTS = Want("sharpness", "compute it with `landscape sharpness`", "measure", frozenset())


@styled
def draw(results, style):
    """Draw every value as a point."""
    figure = style.figure()
    axes = figure.subplots()
    rows = [{"label": r.label, "value": m["value"]} for r in results for m in r["measures"]]
    axes.plot([row["value"] for row in rows], "o")
    return Drawing(figure, rows, ())
'''
DIRECTION = '''
"""Directions by the signs of the weights, and along one weight."""
import torch
from landscape.surfaces.directions.direction import Direction


def signs(problem):
    """sign(w) |w|_1 / n, ``SCALE`` times: x = -1 takes the mean of |w| from every weight."""
    w = problem.weights
    return Direction("signs", problem.space.split(SCALE * w.sign() * w.abs().mean()))


def coordinate(problem, rank):
    """One weight by its number, from 1."""
    unit = torch.zeros_like(problem.weights)
    unit[rank - 1] = 1.0
    return Direction(f"coordinate:{rank}", problem.space.split(unit))


def dice(problem, seed, axis):
    """-1 or 1 in every weight."""
    drawn = torch.Generator().manual_seed(1000 * seed + axis)
    parts = [torch.randint(2, p.shape, generator=drawn).to(p) * 2 - 1 for p in problem.space.split(problem.weights)]
    return Direction("dice", parts, seed=seed, axis=axis)


def wrong(problem):
    """No direction of the network."""
    return Direction("wrong", [torch.ones(3)])


SCALE = 1.0
'''
STUDY = """
name = "looking-back"
title = "Does SAM that looks back end elsewhere?"
train = { data = "gaussian-domains", model = "mlp", steps = 3 }
grid = { optimizer = ["sam", "lookahead-sam"] }
seeds = { init = [0] }
report = { outcomes = ["gap_loss"], compare_by = ["test_accuracy"] }
"""
ENTRIES = """
from pathlib import Path

from landscape.base.names import Entry

STUDY = Path(__file__).with_name("looking-back.toml")
NAMES = {
    "optimizer": {"lookahead-sam": Entry("flat_extra.lookahead:LookaheadSAM", "SAM that looks back", None, ("rho",))},
    "measure": {"largest-weight": Entry("flat_extra.largest:largest_weight", "max |w| over |w|")},
    "figure": {"points": Entry("flat_extra.points:draw", "values as points")},
    "direction": {
        "signs": Entry("flat_extra.signs:signs", "signs of the weights"),
        "coordinate:K": Entry("flat_extra.signs:coordinate", "one weight"),
        "dice": Entry("flat_extra.signs:dice", "one or minus one", None, ("seed",)),
        "wrong": Entry("flat_extra.signs:wrong", "of another network"),
    },
    "study": {"looking-back": Entry("flat_extra:STUDY", "SAM that looks back")},
}
"""


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder as pip leaves it behind."""
    package, info = tmp_path / "site/flat_extra", tmp_path / "site/flat_extra-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(ENTRIES)
    files = (("lookahead", OPTIMIZER), ("largest", MEASURE), ("points", FIGURE), ("signs", DIRECTION))
    for name, text in files:
        (package / f"{name}.py").write_text(text)
    (package / "looking-back.toml").write_text(STUDY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flat-extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flatminima.plugins]\nextra = flat_extra:NAMES\n")
    return tmp_path


def command(there: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(there / "site"), "COLUMNS": "120"}
    program = str(Path(sys.executable).with_name("landscape"))
    return subprocess.run([program, *words], cwd=there, env=environment, capture_output=True, text=True, check=False)


def done(there: Path, *words: str) -> str:
    ran = command(there, *words)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_an_optimizer_a_measure_and_a_figure_of_others(there: Path):
    assert "lookahead-sam" in done(there, "list", "optimizers")
    assert "largest-weight" in done(there, "list", "measures")
    train = (
        "train",
        "--data",
        "gaussian-domains",
        "--model",
        "mlp",
        "--steps",
        "7",
        "--optimizer",
        "sam",
        "lookahead-sam",
    )
    done(there, *train, "--rho", "0.1")
    hashes = {
        json.loads((there / f"runs/{n}-seed0/run.json").read_text())["weights_hash"] for n in ("sam", "lookahead-sam")
    }
    assert len(hashes) == 2
    words = ("sharpness", "runs/lookahead-sam-seed0", "--measure", "largest-weight", "--json")
    value = json.loads(done(there, *words))["measures"][0]["value"]
    assert 0 < value < 1
    done(there, "plot", "runs/lookahead-sam-seed0", "--kind", "points", "--format", "png")
    assert list(there.rglob("points.png"))


def test_a_measure_whose_code_changed_is_computed_again(there: Path):
    done(there, "train", "--data", "gaussian-domains", "--model", "mlp", "--steps", "2")
    words = ("sharpness", "runs/sgd-seed0", "--measure", "largest-weight", "--json")
    before = json.loads(done(there, *words))["measures"][0]["value"]
    file = there / "site/flat_extra/largest.py"
    file.write_text(file.read_text().replace("FACTOR = 1.0", "FACTOR = 2.0"))
    assert json.loads(done(there, *words))["measures"][0]["value"] == pytest.approx(2 * before)


def test_a_direction_of_others(there: Path):
    assert "signs of the weights" in done(there, "list", "directions")
    done(there, "train", "--data", "gaussian-domains", "--model", "mlp", "--steps", "2")

    def at(*words: str) -> dict[str, Any]:
        cut = ("surface", "runs/sgd-seed0", "--points", "3", "--range", "2", "--json")
        return json.loads(done(there, *cut, "--direction", *words))

    once = at("signs", "coordinate:3")
    assert [axis["direction"] for axis in once["axes"]] == ["signs", "coordinate:3"]
    assert once["axes"][1]["norm"] == 1
    both = at("dice")["axes"]
    assert both[0]["norm"] == both[1]["norm"] == pytest.approx(once["n_parameters"] ** 0.5)
    assert abs(at("dice")["cosine"]) < 0.5
    file = there / "site/flat_extra/signs.py"
    file.write_text(file.read_text().replace("SCALE = 1.0", "SCALE = 2.0"))
    assert at("signs", "coordinate:3")["axes"][0]["norm"] == pytest.approx(2 * once["axes"][0]["norm"])


def test_directions_of_others_that_cannot_be(there: Path):
    done(there, "train", "--data", "gaussian-domains", "--model", "mlp", "--steps", "2")
    for words, said in (
        (("signs",), "both axes would be signs"),
        (("signs", "coordinate:0"), "write coordinate: and a rank from 1"),
        (("signs", "wrong"), "it is no direction of this network (wrong)"),
    ):
        ran = command(there, "surface", "runs/sgd-seed0", "--points", "3", "--direction", *words)
        assert ran.returncode == 2
        assert said in ran.stderr


def test_a_study_of_others(there: Path):
    assert "Does SAM that looks back end elsewhere?" in done(there, "list", "studies")
    done(there, "study", "run", "looking-back", "--out", "study")
    assert len(list(there.rglob("run.json"))) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("NAMES = {'optimizer': {'x': 'flat_extra:y'}}", "x is no landscape.base.names.Entry"),
        ("NAMES = 7", "TypeError"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_said(there: Path, names: str, said: str):
    (there / "site/flat_extra/__init__.py").write_text(names)
    ran = command(there, "list", "optimizers")
    assert ran.returncode == 0
    assert "sam" in ran.stdout
    assert said in ran.stderr


def test_names_of_ours_stay_ours(there: Path):
    stolen = ENTRIES.replace('"lookahead-sam"', '"sam"')
    (there / "site/flat_extra/__init__.py").write_text(stolen)
    assert "SAM that looks back" not in done(there, "list", "optimizers")
