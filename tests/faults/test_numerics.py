"""Points and operators at which numbers go astray, and memory that runs out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .conftest import Landscape

pytestmark = pytest.mark.slow  # every case starts processes of its own

PLUGIN = """
import os, torch, torch.nn.functional as F
from torch import nn

DIAGONAL = torch.tensor([5.0, 5.0, 5.0, -7.0, 0.0, 0.0, 1.0, 2.0])

class Weights(nn.Module):
    def __init__(self, at=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.full((8,), float(at)))
    def forward(self, x):
        return self.w.expand(len(x), -1)

def quadratic(output, target):
    return 0.5 * (output.square() * DIAGONAL.to(output)).sum(1)

class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 3)
    def forward(self, x):
        return 0 * self.map(x)

def data(n=10, shift=0.0):
    x = torch.arange(4.0 * n).reshape(n, 4) / (4 * n) + float(shift)
    return {"train": (x, torch.arange(n) % 3)}

class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 3)
    def forward(self, x):
        return F.dropout(self.map(x), 0.5, training=True)

def norms():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 3))

class Shapes(nn.Module):
    '''A tied matrix, a frozen one, an unused one, and a convolution with its channels last.'''
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 2).to(memory_format=torch.channels_last)
        self.a, self.b, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(7, 7)
        self.b.weight = self.a.weight
        self.frozen = nn.Linear(4, 3).requires_grad_(False)
    def forward(self, x):
        x = self.conv(x[:, None, :, None].expand(-1, 2, 4, 2)).mean((2, 3))
        return self.frozen(self.b(torch.tanh(self.a(x))))

class Exploding(nn.Module):
    '''Finite at its weights, and no number a little away from them.'''
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 3, bias=False)
        nn.init.constant_(self.map.weight, 0.5)
    def forward(self, x):
        return self.map(x) + torch.log(1.05 - (self.map.weight - 0.5).abs().sum() * 10) * x[:, :3]

class Limited(nn.Module):
    '''Runs out of memory for more than LIMIT examples at once.'''
    def __init__(self):
        super().__init__()
        self.map = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    def forward(self, x):
        if len(x) > int(os.environ.get("LIMIT", "1000000")):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
                               "memory: you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)")
        return self.map(x)
"""
DATA = ("--data", "plug.py:data")


@pytest.fixture
def plug(landscape: Landscape, tmp_path: Path) -> Landscape:
    landscape.file("plug.py", PLUGIN)
    return landscape


def save(folder: Path, name: str) -> str:
    """The weights of a network of the plug-in as a checkpoint."""
    import torch

    space: dict = {}
    exec(PLUGIN, space)
    torch.manual_seed(0)
    torch.save(space[name]().state_dict(), folder / f"{name}.pt")
    return f"{name}.pt"


def asked(folder: Path, name: str, *more: str) -> tuple[str, ...]:
    return (save(folder, name), "--model", f"plug.py:{name}", *DATA, "--json", *more)


@pytest.mark.case(61)
def test_a_constant_model(plug: Landscape, tmp_path: Path) -> None:
    train = ("train", *DATA, "--model", "plug.py:Constant", "--steps", "3", "--weight-decay", "0.1", "--json")
    found = {o: plug(*train, "--optimizer", o).json["runs"][0]["weights_hash"] for o in ("sgd", "sam")}
    assert found["sam"] == found["sgd"]
    spectrum = plug("hessian", *asked(tmp_path, "Constant", "--top", "2", "--bottom", "1"))
    assert spectrum.json["eigenvalues"] == [0.0, 0.0]
    assert spectrum.json["smallest"] == [0.0]
    assert "zero operator" in " ".join(spectrum.json["notes"])


@pytest.mark.case(62, 63)
def test_multiple_and_negative_eigenvalues_of_a_saddle(plug: Landscape, tmp_path: Path) -> None:
    words = asked(tmp_path, "Weights", "--loss", "plug.py:quadratic", "--top", "4", "--bottom", "1")
    found = plug("hessian", *words).json
    assert found["eigenvalues"] == pytest.approx([5, 5, 5, 2], abs=1e-5)
    assert found["smallest"] == pytest.approx([-7], abs=1e-5)
    assert any("not a minimum: lambda_min = -7, gradient norm 0" in note for note in found["notes"])


@pytest.mark.case(64)
def test_a_loss_that_is_no_number_in_a_surface(plug: Landscape, tmp_path: Path) -> None:
    found = plug("surface", *asked(tmp_path, "Exploding", "--points", "7", "--out", "results")).json
    assert found["nan_cells"] + found["infinite_cells"] > 0
    assert found["center_loss"] == found["plain_loss"]
    drawn = plug("plot", found["result"], "--kind", "contour", "--format", "png", "svg", "--out", "drawn", "--json")
    paths = [Path(p) for p in drawn.json["outputs"]]
    assert {p.suffix for p in paths} == {".png", ".svg", ".tex", ".csv"}
    assert all(p.stat().st_size > 1000 for p in paths if p.suffix in (".png", ".svg"))
    refused = plug("hessian", *asked(tmp_path, "Exploding", "--data-arg", "shift=1e39"))
    assert refused.code == 3
    assert "hold infinite values in the inputs, and the loss there is nan" in refused.error
    words = asked(tmp_path, "Exploding")
    torch.save({"map.weight": torch.full((3, 4), 0.7)}, tmp_path / "Exploding.pt")
    refused = plug("hessian", *words)
    assert refused.code == 4
    assert "is nan" in refused.error


@pytest.mark.case(65)
def test_half_precision_steps_are_those_of_full_precision(plug: Landscape) -> None:
    """Gradients in float16 are summed in float32: the radius neither overflows nor vanishes."""
    train = ("train", "--data", "gaussian-domains", "--model", "mlp", "--optimizer", "sam", "--steps", "4", "--json")
    losses = {
        amp: plug(*train, *(("--amp", amp) if amp else ()), "--out", f"runs{amp}").json["runs"][0]["final"]
        for amp in ("", "float16")
    }
    assert losses["float16"]["train_loss"] == pytest.approx(losses[""]["train_loss"], rel=1e-2)


@pytest.mark.case(66)
def test_eigenvalues_that_do_not_converge(plug: Landscape, tmp_path: Path) -> None:
    words = asked(tmp_path, "Limited", "--top", "3", "--max-products", "6", "--tol", "1e-9")
    outcome = plug("hessian", *words)
    assert outcome.code == 4
    assert "--allow-partial" in outcome.error
    shown = json.loads(outcome.out)
    assert len(shown["eigenvalues"]) == len(shown["residuals"])
    assert not all(shown["converged"])
    assert list((tmp_path / "landscape-results").glob("*.partial.nc"))
    allowed = plug("hessian", *words, "--allow-partial")
    assert allowed.json["eigenvalues"] == shown["eigenvalues"]


@pytest.mark.case(67)
def test_forwards_that_are_random(plug: Landscape, tmp_path: Path) -> None:
    refused = plug("hessian", *asked(tmp_path, "Dropping"))
    assert refused.code == 4
    assert "two passes over the same examples" in refused.error
    frozen = plug("hessian", *asked(tmp_path, "norms"))  # its layers are in eval mode
    assert frozen.json["symmetry_error"] < 1e-4


@pytest.mark.case(68)
def test_dimensions_of_tied_frozen_unused_and_turned_weights(plug: Landscape, tmp_path: Path) -> None:
    found = plug("hessian", *asked(tmp_path, "Shapes", "--top", "1")).json
    assert found["n_parameters"] == (4 * 2 * 4 + 4) + (16 + 4) + 4 + (49 + 7)
    assert found["unused_parameters"] == ["unused.weight", "unused.bias"]


@pytest.mark.case(69)
def test_memory_that_runs_out(plug: Landscape, tmp_path: Path) -> None:
    for command, more in (("hessian", ("--top", "2")), ("sharpness", ("--m", "5")), ("surface", ("--points", "3"))):
        words = (command, *asked(tmp_path, "Limited", *more, "--force"))
        whole, pieces = plug(*words), plug(*words, LIMIT="3")
        assert "micro-batches of" in pieces.err
        key = {"hessian": "eigenvalues", "sharpness": "loss", "surface": "center_loss"}[command]
        assert pieces.json[key] == pytest.approx(whole.json[key], rel=1e-5)
        if command == "sharpness":  # m never changes
            assert [(v["m"], v["n_blocks"]) for v in pieces.json["measures"]] == [
                (v["m"], v["n_blocks"]) for v in whole.json["measures"]
            ]
    nothing = plug("hessian", *asked(tmp_path, "Limited"), LIMIT="0")
    assert nothing.code == 5
    assert "memory" in nothing.error
