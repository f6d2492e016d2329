"""From a checkpoint to an analysis: the file is looked at first, and --key says which of its networks is meant."""

from __future__ import annotations

import argparse
import json
import pathlib
from pathlib import Path
from typing import Any

import pytest
import torch
from landscape_cli.app import main

import landscape
from landscape.analyses.joint import path
from landscape.base.errors import LandscapeError
from landscape.specs import PathSpec, ProblemSpec

FILE = """
import pathlib
import torch
def linear(outputs=3):
    return torch.nn.Linear(4, outputs)
def data():
    pathlib.Path("asked").touch()
    x = torch.arange(40.0).reshape(10, 4) / 40
    return {"train": (x, torch.arange(10) % 3)}
"""


def state(seed: int, outputs: int = 3) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(outputs, 4, generator=made), "bias": torch.randn(outputs, generator=made)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FILE)
    return tmp_path


ARGUMENTS = ["--model", "net.py:linear", "--data", "net.py:data", "--top", "2", "--json"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"",
        {"epoch": 3},
        {"teacher": state(0), "student": state(1)},
        state(0, outputs=5),
        {"weight": torch.zeros(3, 4)},
        {"weight": torch.zeros(3, 4), "bias": torch.full((3,), float("nan"))},
    ],
    ids=["code", "empty", "no weights", "several", "another shape", "missing", "nan"],
)
def test_a_wrong_file_is_told_before_any_data_is_read(content: Any, place: Path) -> None:
    if isinstance(content, bytes):
        Path("c.pt").write_bytes(content)
    else:
        torch.save(content, "c.pt")
    with pytest.raises(LandscapeError, match=r"c\.pt"):
        landscape.open("c.pt", model="net.py:linear", data="net.py:data")
    assert not Path("asked").exists()
    torch.save(state(0), "c.pt")
    landscape.open("c.pt", model="net.py:linear", data="net.py:data")
    assert Path("asked").exists()


def test_a_registered_model_waits_for_the_data_only_after_the_file_was_read(place: Path) -> None:
    Path("c.pt").write_bytes(b"")
    with pytest.raises(LandscapeError, match="empty"):
        landscape.open("c.pt", model="mlp", data="net.py:data")
    assert not Path("asked").exists()


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code = main(list(words))
    out = capsys.readouterr()
    assert code == 0, out.err
    found: dict[str, Any] = json.loads(out.out) | {"said": out.err}
    return found


def test_the_key_decides_the_numbers_and_what_is_stored(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each network's own numbers, and no stored result of one for the other."""
    content = {"model": state(0), "model_ema": state(1), "args": argparse.Namespace(root=pathlib.Path("x"))}
    torch.save(content, "both.pt")
    torch.save(state(0), "raw.pt")
    torch.save(state(1), "ema.pt")
    raw, ema = (answer(capsys, "hessian", f"{n}.pt", *ARGUMENTS, "--out", n) for n in ("raw", "ema"))
    both = answer(capsys, "hessian", "both.pt", *ARGUMENTS)
    assert "--key chooses another: model_ema" in both["said"]
    assert "never constructed: argparse.Namespace" in both["said"]
    chosen = answer(capsys, "hessian", "both.pt", *ARGUMENTS, "--key", "ema")
    assert both["weights_hash"] == raw["weights_hash"] != ema["weights_hash"] == chosen["weights_hash"]
    assert both["eigenvalues"] == raw["eigenvalues"]
    assert chosen["eigenvalues"] == ema["eigenvalues"] != raw["eigenvalues"]
    assert both["result"] != chosen["result"]
    assert answer(capsys, "hessian", "both.pt", *ARGUMENTS, "--key", "model")["result"] == both["result"]


def test_both_ends_of_a_path_are_the_network_that_was_asked_for(place: Path) -> None:
    for name, seed in (("a", 0), ("b", 2)):
        torch.save({"model": state(seed), "model_ema": state(seed + 1)}, f"{name}.pt")
        torch.save(state(seed + 1), f"{name}-alone.pt")

    def losses(a: str, b: str, key: str | None = None) -> list[float]:
        spec = ProblemSpec(model="net.py:linear", data="net.py:data", key=key)
        found: list[float] = path(a, b, spec, PathSpec(points=3)).data["loss"].values.tolist()
        return found

    assert losses("a.pt", "b.pt", "ema") == losses("a-alone.pt", "b-alone.pt") != losses("a.pt", "b.pt")
    Path("asked").unlink()
    with pytest.raises(LandscapeError, match=r"unknown network 'ema'.*b-alone\.pt"):
        losses("a.pt", "b-alone.pt", "ema")
    assert not Path("asked").exists()


def test_info_names_networks_and_what_was_not_made(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": state(0), "model_ema": state(1), "args": argparse.Namespace()}, "both.pt")
    facts = answer(capsys, "info", "both.pt", "--key", "ema", "--json")
    assert facts["container"] == "model_ema"
    assert facts["networks"] == ["model_ema", "model"]
    assert facts["placeholders"] == ["argparse.Namespace"]
    assert main(["info", "both.pt"]) in (0, None)
    said = capsys.readouterr().out
    assert "networks (--key chooses)" in said
    assert "argparse.Namespace" in said


def test_stored_results_of_before_are_found_again() -> None:
    assert "key" not in ProblemSpec().in_key()
    assert ProblemSpec(key="ema").in_key()["key"] == "ema"
    assert ProblemSpec(key="ema").digest() != ProblemSpec().digest()
