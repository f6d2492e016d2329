"""Every command on the device says what it says on the CPU: one story, told on both."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from landscape_cli.app import COMMANDS, main

from landscape.registry import PROBES
from landscape.weights.weights import save_tensors

from . import families
from .comparison import require_same
from .pretend import pretending

FILE = families.__file__
NETWORK = ["--model", f"{FILE}:batch_norm", "--data", f"{FILE}:data", "--data-arg", "family=batch_norm"]
# What is not told here, each with its reason.
NOT_COVERED = {
    "demo": "is train, analyze and report with fixed settings, on the device that `auto` takes",
    "plot": "draws stored results; nothing of it imports torch, which tests/test_rooms.py holds",
    "export": "writes stored results in other forms, without torch",
    "list": "says what there is",
    "info": "reads files",
}
STUDY = """
name = "two"
title = "Two methods"
claim = "None."
[train]
data = "gaussian-domains"
model = "mlp"
model_arg = ["hidden=[6]"]
holdout = ["d0"]
steps = 6
dtype = "float64"
device = "DEVICE"
[[arms]]
name = "SGD"
[[arms]]
name = "SAM"
optimizer = "sam"
[seeds]
init = [0, 1]
[[analyses]]
kind = "sharpness"
measure = ["m-sharpness", "distance-from-start"]
m = [8]
rho = [0.05]
examples = 32
dtype = "float64"
device = "DEVICE"
[report]
bootstrap = 100
permutations = 20
"""


def told(where: str) -> dict[str, list[str]]:
    """The words of each part of the story; they name files of the folder it is told in."""
    a, b, at = "runs/sgd-seed0", "runs/sam-seed0", ["--device", where, "--dtype", "float64"]
    probes = [f"{name}@every=3" for name in PROBES]
    return {
        "train": [
            "train", *NETWORK, *at, "--optimizer", "sgd", "sam", "--steps", "6", "--batch-size", "10", "--lr", "0.05",
            "--save-every", "2", "--probe", *probes,
        ],
        "hessian": ["hessian", a, *at, "--top", "2", "--tol", "1e-2", "--diagonal", "--per-layer"],
        "hessian, domains": ["hessian", a, *at, "--top", "1", "--tol", "1e-2", "--per-domain"],
        "sharpness": ["sharpness", a, *at, "--measure", "m-sharpness", "distance-from-start", "--m", "1", "4"],
        "surface": ["surface", a, b, *at, "--points", "3"],
        "surface, plane": ["surface", a, b, f"{a}@step=2", *at, "--plane", "--points", "3"],
        "surface, principal": ["surface", a, *at, "--points", "3", "--direction", "pca:1", "pca:2"],
        "surface, files": [
            "surface", a, *at, "--points", "3", "--direction",
            f"checkpoint:{b}/checkpoints/step-00000006.safetensors", "file:moved.safetensors",
        ],
        "path": ["path", a, b, *at, "--points", "3", "--kind", "bezier", "--steps", "3", "--train-batch", "8"],
        "path, aligned": ["path", a, b, *at, "--points", "3", "--align", "--beyond", "0.2"],
        "domains": ["domains", b, *at, "--curves"],
        "analyze": ["analyze", a, *at],
        "report": ["report", a, *at],
        "study": ["study", "run", "study.toml"],
        "study, statistics": ["study", "correlate", "study.toml"],
    }  # fmt: skip


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def say(words: list[str]) -> Any:
    """The object that a command prints."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*words, "--json"])
    assert code == 0, err.getvalue()
    return json.loads(out.getvalue())


def tell(where: str, folder: Path) -> dict[str, Any]:
    (folder / "study.toml").write_text(STUDY.replace("DEVICE", where))
    model = families.batch_norm(seed=1)
    save_tensors(folder / "moved.safetensors", {k: v.detach().sin() for k, v in model.named_parameters()})
    with in_folder(folder):
        return {part: say(words) for part, words in told(where).items()}


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory, _registered: None) -> dict[str, Any]:
    found = {}
    for where in ("cpu", "pretend"):
        with pretending() as device:
            found[where] = tell(where, tmp_path_factory.mktemp(where))
            assert bool(device.operations) == (where == "pretend")
    return found


@pytest.mark.parametrize("part", list(told("cpu")))
def test_the_same_story(stories: dict[str, Any], part: str):
    here, there = stories["cpu"][part], stories["pretend"][part]
    require_same(here, there, least=0 if part in ("train", "analyze", "report") else 2)


def test_every_command_is_told_or_says_why_not():
    parts = {words[0] for words in told("cpu").values()}
    assert set(COMMANDS) == parts | set(NOT_COVERED)
    assert not parts & set(NOT_COVERED)
    assert all(NOT_COVERED.values())
