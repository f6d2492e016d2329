"""Every family of networks in every analysis says on the device what it says on the CPU, to the last digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import landscape
from landscape.curvature.operators import OPERATORS, operator_of
from landscape.problem.problem import Problem
from landscape.registry import DIRECTIONS, MEASURES, OPTIMIZERS

from . import families
from .pretend import Device

FAMILIES = tuple(families.INPUTS)
# What the device does not do in these tests, each with its reason.
NOT_COVERED = {
    "checkpoint:FILE": "a difference of stored weights, which paths take",
    "file:FILE": "stored tensors, put where checkpoints are",
    "pca:K": "needs a run's snapshots; it adds stored weights as paths do",
    "distance-from-start": "needs the start of a run; a difference of weights and its norm",
}
# The kernels are the CPU's: only sums in another order are left, where a device takes another way.
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def problem(family: str, device: str, **options: Any) -> Problem:
    made = getattr(families, family)()
    return Problem(made, families.examples(family), device=device, dtype="float64", batch_size=8, **options)


def numbers(value: Any, at: str = "") -> dict[str, float]:
    """All numbers of a record, by where they stand; what a device says of itself and clocks are left out."""
    if isinstance(value, dict):
        left_out = (
            "seconds",
            "device",
            "key",
            "identity",
            "products",
            "created",
            "memory",
            "bytes",
            "peak",
            "environment",
        )
        return {
            k: v
            for name, entry in value.items()
            if not any(word in str(name) for word in left_out)
            for k, v in numbers(entry, f"{at}/{name}").items()
        }
    if isinstance(value, list | tuple):
        return {k: v for i, entry in enumerate(value) for k, v in numbers(entry, f"{at}/{i}").items()}
    return {at: float(value)} if isinstance(value, int | float) else {}


def same(ask: Callable[[str], Any]) -> None:
    """The same numbers, and some."""
    here, there = (numbers(ask(d)) for d in ("cpu", "pretend"))
    assert here.keys() == there.keys()
    assert len(here) > 1
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, **CLOSE, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_gradients_and_products(device: Device, family: str):
    def ask(where: str) -> dict[str, Any]:
        p = problem(family, where)
        assert p.weights.device.type == where
        v = torch.sin(torch.arange(p.n_parameters, dtype=torch.float64)).to(p.device)
        found = {"loss": p.loss(), "gradient": p.gradient().tolist(), "each": p.example_losses().tolist()}
        for kind in OPERATORS:
            for memory in (None, 0) if kind == "hessian" else (None,):
                try:
                    with operator_of(p, kind, memory=memory) as operator:
                        found[f"{kind} {memory}"] = operator(v).tolist()
                except landscape.UsageError as error:  # an operator that another family or loss is for
                    found[f"{kind} {memory}"] = [float(len(str(error)))]
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
    names = [m for m in MEASURES if m not in NOT_COVERED]

    def ask(where: str) -> Any:
        found = {}
        p = problem(family, where)
        for name in names:
            try:
                rows = landscape.sharpness(p, measure=(name,), draws=2).record["measures"]
                found[name] = [r["value"] for r in rows]
            except landscape.LandscapeError as error:
                found[name] = str(error).replace("pretend", "cpu")
        return {"numbers": found, "refused": [len(str(v)) for v in found.values() if isinstance(v, str)]}

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


def train(folder: Path, where: str, family: str, optimizer: str, **options: Any) -> Any:
    given = {"steps": 4, "batch_size": 6, "lr": 0.05, "dtype": "float64", **options}
    (run,) = landscape.train(
        folder, optimizer=(optimizer,), model=f"{families.__file__}:{family}", data=f"{families.__file__}:data",
        data_arg=(f"family={family}",), device=where, **given,
    )  # fmt: skip
    return run


def weights(run: Any) -> dict[str, Any]:
    return {"weights": landscape.open(run, device="cpu", dtype="float64").weights.tolist()}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_every_optimizer(device: Device, optimizer: str, tmp_path: Path):
    same(lambda where: weights(train(tmp_path / where, where, "batch_norm", optimizer)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains(device: Device, family: str, tmp_path: Path):
    same(lambda where: weights(train(tmp_path / where, where, family, "sam")))


OPTIONS: dict[str, dict[str, Any]] = {
    "adaptive": {"adaptive": True},
    "pieces": {"m": 3},
    "accumulated": {"accumulate": 2},
    "clipped": {"clip": 0.1},
    "swa": {"average": "swa"},
    "balanced": {"sampler": "balanced"},
    "held out": {"holdout": ("c",)},
    "second pass": {"bn_second_pass": "update"},
}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_options_of_training(device: Device, name: str, tmp_path: Path):
    same(lambda where: weights(train(tmp_path / where, where, "batch_norm", "sam", **OPTIONS[name])))


@pytest.mark.parametrize("direction", [d for d in DIRECTIONS if d not in NOT_COVERED])
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


def test_what_is_not_covered_exists():
    """Everything that is registered is run on the device, or stands in the list with its reason."""
    assert set(NOT_COVERED) <= {*DIRECTIONS, *MEASURES}
    assert all(NOT_COVERED.values())
