"""``--loss kind=cross_entropy,size=0.3*mse`` through the command, beside the dense Hessian of the sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import flat_function
from objective_families import F64, TwoHeads, labels, randn, seeded

PLUGIN = """
import torch
from objective_families import TwoHeads, labels, randn, seeded

def net():
    return seeded(TwoHeads)

def data():
    x, y = randn(24, 3), {"kind": labels(24, 3), "size": randn(24, 2, seed=1)}
    parts = {"a": slice(10), "b": slice(10, None)}
    return {"train": {name: (x[some], {k: v[some] for k, v in y.items()}) for name, some in parts.items()}}

def squares(output, target):
    return (output - target).square().sum(1)
"""
WORDS = ("--model", "m.py:net", "--data", "m.py:data", "--dtype", "float64", "--json")


def dense(network: Any) -> tuple[float, torch.Tensor]:
    x, kind, size = randn(24, 3), labels(24, 3), randn(24, 2, seed=1)

    def total(model: Any) -> Any:
        found = model(x)
        return F.cross_entropy(found["kind"], kind) + 0.3 * (found["size"] - size).square().sum(1).mean()

    function, weights = flat_function(network, total)
    hessian = torch.autograd.functional.hessian(function, weights)
    return float(function(weights).detach()), torch.linalg.eigvalsh(hessian)


@pytest.mark.parametrize("loss", ["kind=cross_entropy,size=0.3*m.py:squares", "kind=cross_entropy,size=0.6*mse"])
def test_a_weighted_sum_is_analysed_and_trained(loss: str, tmp_path: Path, landscape) -> None:
    (tmp_path / "m.py").write_text(PLUGIN)
    network = seeded(TwoHeads)
    torch.save(network.state_dict(), "w.pt")
    said = landscape("hessian", "w.pt", *WORDS, "--loss", loss, "--tol", 1e-6)
    assert said.code == 0, said.err
    value, spectrum = dense(network)
    assert said.json["loss"] == pytest.approx(value, rel=1e-10)
    assert said.json["eigenvalues"][0] == pytest.approx(float(spectrum[-1]), rel=1e-5)
    steps = ("--optimizer", "disam", "--steps", 3, "--batch-size", 8, "--lr", 0.1)
    trained = landscape("train", *WORDS, "--loss", loss, *steps)
    assert trained.code == 0, trained.err
    (run,) = trained.json["runs"]
    found = landscape("hessian", run["path"], "--dtype", "float64", "--json", "--tol", 1e-6)
    assert found.code == 0, found.err
    from safetensors.torch import load_file

    network.load_state_dict(
        {k: v.to(F64) for k, v in load_file(Path(run["path"]) / "checkpoints/step-00000003.safetensors").items()}
    )
    assert found.json["loss"] == pytest.approx(dense(network)[0], rel=1e-6)
    if "m.py" in loss:
        (tmp_path / "m.py").write_text(PLUGIN.replace("square().sum(1)", "square().sum(1) * 2"))
        other = landscape("hessian", "w.pt", *WORDS, "--loss", loss)
        assert other.json["loss"] > said.json["loss"]
        untrusted = landscape("hessian", run["path"], "--json", "--data", "m.py:data", "--model", "m.py:net")
        assert untrusted.code == 0  # the changed file was named above


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ("kind=cross_entropy,size=", "no part of a loss"),
        ("kind=cross_entopy", "did you mean 'cross_entropy'"),
        ("kind=x*mse", "'x' is no weight"),
        ("kind=cross_entropy,boxes=mse", "returns no 'boxes': there is kind, size"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(loss: str, told: str, tmp_path: Path, landscape) -> None:
    (tmp_path / "m.py").write_text(PLUGIN)
    torch.save(seeded(TwoHeads).state_dict(), "w.pt")
    said = landscape("hessian", "w.pt", *WORDS, "--loss", loss)
    assert said.code in (2, 3)
    assert told in said.error
