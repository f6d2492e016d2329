"""A stranger's run folder never makes code run; what the user named himself does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Landscape

pytestmark = pytest.mark.slow  # every case starts processes of its own

PLUGIN = """
from pathlib import Path
import torch
Path(__file__).with_name("canary").write_text("ran")
def network(width=5):
    return torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 3))
"""
TRAIN = ("train", "--data", "gaussian-domains", "--model", "plug.py:network", "--steps", "3", "--out", "runs")
LOOK = ("domains", "runs/sgd-seed0", "--json")


@pytest.fixture
def run(landscape: Landscape, tmp_path: Path) -> Path:
    """A run made by somebody else: the user's trust file does not know its plug-in."""
    (tmp_path / "plug.py").write_text(PLUGIN)
    outcome = landscape(*TRAIN, XDG_STATE_HOME=str(tmp_path / "somebody else"))
    assert outcome.code == 0, outcome.err
    (tmp_path / "canary").unlink()
    return tmp_path / "runs/sgd-seed0"


def test_a_plugin_that_only_the_run_names_is_refused(run: Path, landscape: Landscape, tmp_path: Path) -> None:
    outcome = landscape(*LOOK)
    assert outcome.code == 2
    assert str(tmp_path / "plug.py") in outcome.error
    assert "--model" in outcome.error
    assert "--trust-run" in outcome.error
    assert not (tmp_path / "canary").exists()


def test_the_ways_to_trust(run: Path, landscape: Landscape, tmp_path: Path) -> None:
    once = landscape(*LOOK, "--trust-run")
    assert once.code == 0, once.err
    assert landscape(*LOOK).code == 2  # --trust-run is for that call alone
    assert landscape(*LOOK, "--model", "plug.py:network").code == 0
    assert landscape(*LOOK).code == 0  # named before, exactly this file
    with (tmp_path / "plug.py").open("a") as file:
        file.write("\n# edited\n")
    assert landscape(*LOOK).code == 2  # no longer exactly that file
    assert landscape(*LOOK, "--model", "plug.py:network").code == 0
    assert landscape(*LOOK).code == 0


@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "evil:make"])
def test_a_module_that_only_the_run_names_is_refused(
    name: str, run: Path, landscape: Landscape, tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('canary').write_text('ran')\n")
    facts = json.loads((run / "run.json").read_text())
    facts["spec"]["model"] = name
    facts["spec"]["model_arg"] = ["command=touch canary"]
    (run / "run.json").write_text(json.dumps(facts))
    outcome = landscape(*LOOK)
    assert outcome.code == 2
    assert "which you have not named before" in outcome.error
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("what", ["data", "loss"])
def test_data_and_loss_are_no_back_doors(what: str, landscape: Landscape, tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text(PLUGIN)
    plain = ("mlp" if word == "plug.py:network" else word for word in TRAIN)
    assert landscape(*plain).code == 0
    run = tmp_path / "runs/sgd-seed0"
    facts = json.loads((run / "run.json").read_text())
    facts["spec"][what] = "plug.py:network"
    (run / "run.json").write_text(json.dumps(facts))
    outcome = landscape(*LOOK)
    assert outcome.code == 2
    assert str(tmp_path / "plug.py") in outcome.error
    assert not (tmp_path / "canary").exists()


def test_without_a_home_it_works_and_forgets(landscape: Landscape, tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text(PLUGIN)
    (tmp_path / "locked").write_text("a file where the state folder should be")
    outcome = landscape(*TRAIN, XDG_STATE_HOME=str(tmp_path / "locked"))
    assert outcome.code == 0, outcome.err
