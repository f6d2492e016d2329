"""What an earlier version stored still opens, is found again, and goes on.

`made_before/` was written by commit 805bd95, before the modules moved into rooms:

    landscape train --optimizer sgd sam --model mlp --model-arg hidden=[4] --data gaussian-domains --steps 20 \\
        --save-every 10steps
    landscape hessian runs/sgd-seed0 --top 2 --trace       (and the analyses that are asked for again below)
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import landscape
from landscape.analyses.analyze import analyze
from landscape.analyses.joint import path, surfaces
from landscape.results.result import Result
from landscape.results.run import Run
from landscape.specs import DomainsSpec, HessianSpec, PathSpec, SharpnessSpec, SurfaceSpec

MADE = Path(__file__).parent / "made_before"
# Blocks are random since (stratified ones have the numbers of before); eigenvalues start from two vectors.
CHANGED = {
    "sharpness": "sgd-seed0/results/sharpness-*.nc",
    "hessian": "sgd-seed0/results/hessian-*.nc",
    "domains": "sam-seed0/results/domains-*.nc",
    "curves": "sgd-seed0/results/domains-*.nc",
}
OF_THE_WAY = ("seconds", "residuals")  # numbers that how a result was found decides, and not what it is
SGD, SAM = "runs/sgd-seed0", "runs/sam-seed0"
ASKED: dict[str, tuple[str, Callable[..., Result]]] = {
    "hessian": ("hessian", lambda **k: analyze("hessian", SGD, None, HessianSpec(top=2, trace=True), **k)),
    "sharpness": ("sharpness", lambda **k: analyze("sharpness", SGD, None, SharpnessSpec(blocks="stratified"), **k)),
    "domains": ("domains", lambda **k: analyze("domains", SAM, None, DomainsSpec(), **k)),
    "curves": ("domains", lambda **k: analyze("domains", SGD, None, DomainsSpec(curves=True), **k)),
    "plane": ("surface", lambda **k: analyze("surface", SGD, None, SurfaceSpec(points=5), **k)),
    "slice": ("surface", lambda **k: analyze("surface", SAM, None, SurfaceSpec(dim=1, points=5), **k)),
    "path": ("path", lambda **k: path(SGD, SAM, None, PathSpec(points=5), **k)),
    "trajectories": (
        "plane",
        lambda **k: surfaces([SGD, SAM], None, SurfaceSpec(direction=("pca:1", "pca:2"), points=5), **k)[0],
    ),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(MADE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_opens(here: Path):
    runs = [Run(here / name) for name in (SGD, SAM)]
    assert [run.record["status"] for run in runs] == ["finished"] * 2
    assert [sorted(run.checkpoints()) for run in runs] == [[0, 10, 20]] * 2
    results = [Result.load(file) for file in sorted(here.rglob("*.nc"))]
    assert len(results) == len(ASKED)
    assert {r.kind for r in results} == {
        "hessian",
        "sharpness",
        "domains",
        "domain-curves",
        "surface",
        "path",
        "plane",
    }
    assert len(landscape.training_result(runs[0]).data["step"]) == 20


@pytest.mark.parametrize("name", ASKED)
def test_a_stored_result_is_found_again(name: str, here: Path, caplog: pytest.LogCaptureFixture):
    """By the same identity; another torch is another identity, and gives the same numbers."""
    kind, ask = ASKED[name]
    before = {file: file.read_bytes() for file in here.rglob("*.nc")}
    with caplog.at_level(logging.INFO, "landscape"):
        found = ask()
    if found.record["identity"]["torch"] == torch.__version__ and name not in CHANGED:
        assert "stored result" in caplog.text
        assert found.path in before
    if name in CHANGED:
        [file] = [f for f in before if f.match(CHANGED[name])]
        found = Result.load(file)
    assert all(file.read_bytes() == content for file, content in before.items())
    anew = ask(out=here / "anew", force=True)
    assert found.kind == anew.kind
    assert kind in ("domains", found.kind)
    for variable in found.data.data_vars:
        values = found.data[variable].values
        if values.dtype.kind == "f" and variable not in OF_THE_WAY:
            np.testing.assert_allclose(
                values, anew.data[variable].values, rtol=2e-3, atol=2e-5, err_msg=str(variable)
            )


def test_a_run_of_before_goes_on(here: Path):
    """It is finished: asked for again, nothing is done."""
    spec = json.loads((here / SGD / "run.json").read_text())["spec"]
    [run] = landscape.train(
        data=spec["data"], model=spec["model"], model_arg=("hidden=[4]",), steps=20, save_every="10steps", out="runs"
    )
    assert run.record["created"] == json.loads((MADE / SGD / "run.json").read_text())["created"]  # nothing was redone
