"""Every family of networks in every analysis says on the device what it says on the CPU, to the last digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import landscape
from landscape.curvature.operators import OPERATORS, operator_of
from landscape.problem.problem import Problem
from landscape.registry import DIRECTIONS, MEASURES, OPTIMIZERS

from . import families
from .comparison import problem, same, train, weights
from .pretend import Device
from .test_commands import told

FAMILIES = tuple(families.INPUTS)
# Measures that a network or its inputs are not made for, and what is said, on every device alike.
_START = {"distance-from-start": "weights at the start of training are not known"}  # see test_commands
_NO_RELU = {"path-norm": "this network does not double where its input does"}  # see below
_NORMALISING = {"path-norm": "not defined through a normalising layer"}
REFUSED: dict[str, dict[str, str]] = {
    "convolution": _START | _NORMALISING,
    "batch_norm": _START | _NORMALISING,
    "attention": _START | _NORMALISING | {"input-sharpness": "the inputs are no single floating tensor"},
    "lstm": _START | _NO_RELU,
    "gru": _START | _NO_RELU,
    "complex_weights": _START | {"path-norm": "not defined for complex weights"},
    "weight_norm": _START | _NO_RELU,
}
# L-BFGS-B over kinks of ReLU and max pooling goes where rounding sends it.
KINKED = ("batch_norm",)
# Directions that need files or a run: test_commands has them.
OF_RUNS = ("checkpoint:FILE", "file:FILE", "pca:K")


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_gradients_and_products(device: Device, family: str):
    def ask(where: str) -> dict[str, Any]:
        p = problem(family, where)
        assert p.weights.device.type == where
        v = torch.sin(torch.arange(p.n_parameters, dtype=torch.float64)).to(p.device)
        found = {"loss": p.loss(), "gradient": p.gradient().tolist(), "each": p.example_losses().tolist()}
        for kind in OPERATORS:
            for memory in (None, 0) if kind == "hessian" else (None,):
                with operator_of(p, kind, memory=memory) as operator:
                    found[f"{kind} {memory}"] = operator(v).tolist()
        return found

    same(ask)


@pytest.mark.parametrize(
    ("family", "of"), [*((f, "hessian") for f in FAMILIES), ("batch_norm", "ggn"), ("weight_norm", "fisher")]
)
def test_spectra(device: Device, family: str, of: str):
    many = family in ("batch_norm", "weight_norm", "complex_weights")  # products of the others take long here

    def ask(where: str) -> Any:
        p = problem(family, where)
        return landscape.hessian(p, operator=of, top=1, tol=1e-2, trace=many, trace_rtol=0.5, density=many).record

    same(ask)


@pytest.mark.parametrize("family", FAMILIES)
def test_sharpness(device: Device, family: str):
    refused = REFUSED[family]
    asked = [m for m in MEASURES if m not in refused]

    def ask(where: str) -> Any:
        p = problem(family, where)
        for name, said in refused.items():
            with pytest.raises(landscape.UsageError, match=said):
                landscape.sharpness(p, measure=(name,))
        rows = landscape.sharpness(p, measure=tuple(asked), draws=2, m=(4,)).record["measures"]
        assert {r["measure"] for r in rows} == set(asked)
        found = {f"{r['measure']}, row {i}": r["value"] for i, r in enumerate(rows)}
        kinked[where] = {k: found.pop(k) for k in list(found) if family in KINKED and k.startswith("keskar-subspace")}
        return found

    kinked: dict[str, dict[str, float]] = {}
    same(ask)
    assert kinked["pretend"] == pytest.approx(kinked["cpu"], rel=1e-2)


def test_the_path_norm(device: Device):
    """The measure that is defined for none of the families: for a network of ReLUs alone."""

    def ask(where: str) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        p = Problem(model, families.examples("weight_norm"), device=where, dtype="float64")
        return landscape.sharpness(p, measure=("path-norm", "gradient-norm")).record["measures"]

    same(ask)


@pytest.mark.parametrize("family", FAMILIES)
def test_domains(device: Device, family: str):
    same(lambda where: landscape.domains(problem(family, where), sharpness=True).record)


@pytest.mark.parametrize("family", FAMILIES)
def test_surfaces_and_paths(device: Device, family: str, tmp_path: Path):
    other = tmp_path / "b.pt"
    torch.save(getattr(families, family)(seed=2).state_dict(), other)

    def ask(where: str) -> Any:
        p = problem(family, where)
        plane = landscape.surface(p, points=3).data["loss"].values
        path = landscape.path(problem(family, where), other, points=3, bn="keep")
        return {"plane": plane.ravel().tolist(), "path": path.data["loss"].values.ravel().tolist()}

    same(ask)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_every_optimizer(device: Device, optimizer: str, tmp_path: Path):
    same(lambda where: weights(train(tmp_path / where, where, "batch_norm", optimizer)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains(device: Device, family: str, tmp_path: Path):
    same(lambda where: weights(train(tmp_path / where, where, family, "sam")))


@pytest.mark.parametrize("direction", [d for d in DIRECTIONS if d not in OF_RUNS])
def test_directions(device: Device, direction: str):
    named = {
        "eigvec:K": "eigvec:1",
        "sam:RHO": "sam:0.1",
        "asam:RHO": "asam:0.1",
        "domain-grad:NAME": "domain-grad:a",
    }
    asked = (named.get(direction, direction),)

    def ask(where: str) -> Any:
        found = landscape.surface(problem("batch_norm", where), dim=1, points=3, direction=asked)
        return {"loss": found.data["loss"].values.tolist()}

    same(ask)


class Stopped(Exception):
    """A kill in the middle."""


@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False), (True, True)])
def test_a_run_goes_on_on_another_device(
    device: Device, first: bool, then: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With ``auto``; a device that was named is part of what a run is, and another one is refused."""
    from landscape.training.loop import Training

    whole = train(tmp_path / "whole", "cpu", "batch_norm", "sam", steps=6)
    with monkeypatch.context() as patch:
        plain = Training.__dict__["_one_step"]

        def step(self: Any, *args: Any) -> Any:
            if self.step == 4:
                raise Stopped
            return plain(self, *args)

        patch.setattr(Training, "_one_step", step)
        device.present = first
        with pytest.raises(Stopped):
            train(tmp_path / "two", "auto", "batch_norm", "sam", steps=6, save_every="2steps")
    device.present = then
    before = device.operations
    resumed = train(tmp_path / "two", "auto", "batch_norm", "sam", steps=6, save_every="2steps", resume=True)
    assert (device.operations > before) == then
    with pytest.raises(landscape.UsageError, match="another configuration"):
        train(tmp_path / "two", "cpu", "batch_norm", "sam", steps=6, save_every="2steps", resume=True)
    assert weights(whole)["weights"] == pytest.approx(weights(resumed)["weights"], rel=1e-9)


def test_directions_of_runs_are_those_of_the_story():
    words = {word for words in told("cpu").values() for word in words}
    assert all(any(w.startswith(name.split(":")[0] + ":") for w in words) for name in OF_RUNS)
    assert set(OF_RUNS) <= set(DIRECTIONS)
