"""A model of a study is done as long as it is made of the code and the examples that its experiment names."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from landscape.specs.study import Experiment
from landscape.study import made_of
from landscape.study.folder import StudyFolder
from landscape.study.study import run, statistics, status

MODEL = """
import torch
from inner import WIDTH
def net(): torch.manual_seed(0); return torch.nn.Sequential(torch.nn.Linear(2, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 3))
"""  # noqa: E501
LOSS = "import torch\ndef loss(o, t): return torch.nn.functional.cross_entropy(o, t, reduction='none')\n"
DATA = """
import torch
def data():
    torch.manual_seed(0)
    x = torch.randn(40, 2)
    return {"train": (x, (x[:, 0] > 0).long()), "test": (x + 0.1, (x[:, 0] > 0).long())}
"""
STUDY = """
name = "small"
[train]
data = "d.py:data"
model = "m.py:net"
loss = "l.py:loss"
steps = 2
batch_size = 20
[grid]
optimizer = ["sgd", "sam"]
[seeds]
init = [0]
[[analyses]]
kind = "sharpness"
measure = ["weight-norm"]
[[analyses]]
kind = "hessian"
top = 1
data = "e.py:data"
allow_partial = true
[report]
bootstrap = 100
permutations = 20
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name, text in (("m.py", MODEL), ("inner.py", "WIDTH = 4\n"), ("l.py", LOSS), ("d.py", DATA), ("e.py", DATA)):
        (tmp_path / name).write_text(text)
    return StudyFolder(tmp_path / "study")


def _begin_anew() -> None:
    """What another process would not know."""
    for name in [n for n in sys.modules if n == "inner" or n.startswith("landscape_plugin_")]:
        del sys.modules[name]
    made_of._code.cache_clear()
    made_of.examples_of.cache_clear()


def ask(folder: StudyFolder) -> dict[str, list[str]]:
    """Do what is missing, as a process that has just begun; the weights of each model, and its analyses' results."""
    _begin_anew()
    experiment = Experiment.from_content(tomllib.loads(STUDY), "small.toml")
    now = run(experiment, folder)
    assert (now["done"], now["failed"], now["changed"]) == (2, 0, [])
    records = [folder.record(c) for c in experiment.cells]
    return {
        "weights": [r["training"]["weights_hash"] for r in records],
        "results": sorted(x for r in records for a in r["analyses"].values() for x in a["results"]),
    }


@pytest.mark.parametrize(
    ("file", "old", "new", "trained"),
    [
        ("m.py", "Tanh", "ReLU", True),
        ("inner.py", "4", "5", True),
        ("d.py", "manual_seed(0)", "manual_seed(1)", True),
        ("l.py", "(o, t, reduction", "(2 * o, t, reduction", True),
        ("e.py", "manual_seed(0)", "manual_seed(2)", False),
    ],
)
def test_what_changed_is_done_again(folder: StudyFolder, file: str, old: str, new: str, trained: bool):
    first = ask(folder)
    assert ask(folder) == first
    path = folder.path.parent / file
    path.write_text(path.read_text().replace(old, new))
    _begin_anew()
    experiment = Experiment.from_content(tomllib.loads(STUDY), "small.toml")
    before = status(experiment, folder)
    assert len(before["changed"]) == 2
    if trained:  # nothing that can be compared is left
        with pytest.raises(Exception, match="no model is finished"):
            statistics(experiment, folder)
    second = ask(folder)
    assert (second["weights"] != first["weights"]) == trained
    assert second["results"] != first["results"]
