"""Arguments that cannot be meant: refused before anything is computed or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Landscape

pytestmark = pytest.mark.slow  # every case starts processes of its own

TRAIN = ("train", "--data", "gaussian-domains", "--model", "mlp", "--steps", "2", "--out", "out")
WORDS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "rho negative": (36, (*TRAIN, "--optimizer", "sam", "--rho", "-0.1"), ("rho=-0.1", "--rho")),
    "rho nan": (36, (*TRAIN, "--optimizer", "sam", "--rho", "nan"), ("rho=nan", "--rho")),
    "rho infinite": (36, (*TRAIN, "--optimizer", "sam", "--rho", "inf"), ("rho=inf", "--rho")),
    "alpha negative": (37, (*TRAIN, "--optimizer", "sagm", "--alpha", "-1"), ("alpha=-1", "--alpha")),
    "alpha nan": (37, (*TRAIN, "--optimizer", "sagm", "--alpha", "nan"), ("alpha=nan", "--alpha")),
    "lambda negative": (37, (*TRAIN, "--optimizer", "disam", "--lam", "-1"), ("lam=-1", "--lam")),
    "lambda nan": (37, (*TRAIN, "--optimizer", "disam", "--lam", "nan"), ("lam=nan", "--lam")),
    "no eigenvalue": (38, ("hessian", "c.pt", "--top", "0"), ("--top",)),
    "as many eigenvalues as parameters": (
        38,
        ("hessian", "c.pt", "--model", "net.py:linear", "--data", "net.py:data", "--top", "15"),
        ("15", "--top"),
    ),
    "a grid of one row": (39, ("surface", "c.pt", "--points", "1"), ("points=1", "--points")),
    "a reversed range": (39, ("surface", "c.pt", "--range", "-1"), ("--range",)),
    "a range of no width": (39, ("surface", "c.pt", "--range", "0"), ("--range",)),
    "pieces of nothing": (40, (*TRAIN, "--optimizer", "sam", "--m", "0"), ("m=0", "--m")),
    "blocks of nothing": (40, ("sharpness", "c.pt", "--m", "0"), ("--m",)),
    "an unknown optimizer": (41, (*TRAIN, "--optimizer", "dissam"), ("dissam", "disam")),
    "an unknown model": (41, (*TRAIN, "--model", "resnet21"), ("resnet21", "resnet20")),
    "a device that is absent": (42, (*TRAIN, "--device", "cuda:7"), ("--device cuda:7", "--device cpu")),
    "contradictory options": (43, (*TRAIN, "--optimizer", "sgd", "--rho", "0.1"), ("--rho", "--optimizer sgd")),
    "an unknown key": (44, (*TRAIN, "--config", "unknown.toml"), ("unknown.toml", "'lrr'", "lr")),
    "a broken configuration": (44, (*TRAIN, "--config", "broken.toml"), ("broken.toml", "line 2")),
    "a key given twice": (44, (*TRAIN, "--config", "twice.toml"), ("twice.toml", "line 2")),
    "a value of the wrong type": (44, (*TRAIN, "--config", "typed.toml"), ("typed.toml", "lr", "a number")),
}


@pytest.mark.parametrize(
    ("words", "said"),
    [pytest.param(words, said, id=name, marks=pytest.mark.case(case)) for name, (case, words, said) in WORDS.items()],
)
def test_what_cannot_be_meant(words: tuple[str, ...], said: tuple[str, ...], landscape: Landscape, tmp_path: Path):
    import torch

    landscape.file("net.py", NETWORK)
    torch.save(torch.nn.Linear(4, 3).state_dict(), tmp_path / "c.pt")
    for name, text in CONFIGURATIONS.items():
        landscape.file(name, text)
    before = sorted(p.name for p in tmp_path.iterdir())
    outcome = landscape(*words)
    assert outcome.code == 2, outcome.err
    for text in said:
        assert text in outcome.error
    assert outcome.out == ""
    left = {p.name for p in tmp_path.iterdir()} - {*before, "state", "__pycache__", "landscape-results"}
    assert left == set()


NETWORK = """
import torch
def linear():
    return torch.nn.Linear(4, 3)
def data():
    x = torch.arange(40.0).reshape(10, 4) / 40
    return {"train": (x, torch.arange(10) % 3)}
"""
CONFIGURATIONS = {
    "unknown.toml": "lrr = 0.1\n",
    "broken.toml": "lr = 0.1\nmomentum = = 2\n",
    "twice.toml": "lr = 0.1\nlr = 0.2\n",
    "typed.toml": 'lr = "fast"\n',
}


@pytest.mark.case(36)
def test_no_radius_is_plain_training_and_says_so(landscape: Landscape) -> None:
    sam = landscape(*TRAIN, "--optimizer", "sam", "--rho", "0", "--json")
    assert "rho=0" in sam.err
    sgd = landscape(*TRAIN, "--optimizer", "sgd", "--json")
    assert sam.json["runs"][0]["weights_hash"] == sgd.json["runs"][0]["weights_hash"]


@pytest.mark.case(45, 46)
def test_folders_that_hold_something_else(landscape: Landscape, tmp_path: Path) -> None:
    landscape.file("out/sgd-seed0/thesis.tex", "mine")
    outcome = landscape(*TRAIN)
    assert outcome.code == 2
    assert "holds other files" in outcome.error
    deep = landscape(*TRAIN[:-1], "a/b/c")  # a missing parent is created
    assert deep.code == 0, deep.err
    landscape.file("occupied", "mine")
    for command in (("plot", "a/b/c/sgd-seed0"), ("report", "a/b/c/sgd-seed0"), ("domains", "a/b/c/sgd-seed0")):
        refused = landscape(*command, "--out", "occupied/below.html" if command[0] == "report" else "occupied")
        assert refused.code == 2, refused.err
        assert "occupied" in refused.error
    assert (tmp_path / "occupied").read_text() == "mine"
