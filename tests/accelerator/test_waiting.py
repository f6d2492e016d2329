"""How often a computation waits for the device: counted on the pretend one, so that an extra wait fails a test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import landscape
from landscape.curvature.lanczos.krylov import Krylov
from landscape.curvature.operators import OPERATORS, operator_of
from landscape.problem.problem import Problem
from landscape.surfaces.directions.random import draw
from landscape.surfaces.evaluate.evaluator import evaluating

from . import families
from .comparison import train
from .pretend import Device
from .test_public_names import network

NONE: Counter[str] = Counter()


@pytest.fixture
def problem(device: Device) -> Problem:
    made = Problem(
        families.batch_norm(), families.examples("batch_norm"), device="pretend", dtype="float32", batch_size=8
    )
    made.evaluate()  # its batches are on the device from here on
    return made


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("kind", OPERATORS)
def test_a_product_does_not_wait(device: Device, problem: Problem, kind: str, memory: int | None):
    v = torch.ones_like(problem.weights)
    with operator_of(problem, kind, memory=memory) as operator:
        operator(v)  # builds the graphs, and draws labels where that is needed
        device.waits.clear()
        operator(v)
        assert device.waits == NONE


def test_an_extra_wait_is_seen(device: Device, problem: Problem):
    """What the tests of this file would say to a number that is read in a product."""
    plain = problem.space.own
    problem.space.own = lambda vector: (float(vector.sum()), plain(vector))[1]  # type: ignore[method-assign]
    with operator_of(problem, memory=0) as operator:
        operator(torch.ones_like(problem.weights))
        device.waits.clear()
        operator(torch.ones_like(problem.weights))
    assert device.waits.total() == 1


def test_losses_and_gradients_do_not_wait(device: Device, problem: Problem):
    problem.loss_and_gradient()
    device.waits.clear()
    problem.loss_and_gradient()
    problem.loss_tensor()
    problem.sums()
    assert device.waits == NONE


def test_a_krylov_step_waits_once(device: Device, problem: Problem):
    start = torch.ones(1, problem.n_parameters, dtype=torch.float64, device="pretend")
    with operator_of(problem) as operator:
        space = Krylov(operator, start, lambda: start[0])
        space.grow()
        for _ in range(3):
            device.waits.clear()
            space.grow()
            assert device.waits.total() <= 1, device.waits


def test_a_row_of_a_surface_waits_once(device: Device, problem: Problem):
    direction = draw(problem, "filter", 0, 0, "filter")
    with evaluating(problem) as walker:
        walker.over([[(0.1, direction)]])
        device.waits.clear()
        walker.over([[(step, direction)] for step in (0.1, 0.2, 0.3)])
        assert device.waits.total() <= 1, device.waits


# A step asks whether its gradients were finite before it writes, and reads the losses that it logs, once each.
STEP = {"_local_scalar_dense": 1, "tolist": 1}


@pytest.mark.parametrize("optimizer", ["sgd", "sam", "gsam", "disam"])
def test_a_step_of_training_reads_what_it_checks_and_logs(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
):
    from landscape.training.loop import Training

    each: list[Counter[str]] = []
    plain = Training.__dict__["_one_step"]

    def step(self: Any, *args: Any) -> Any:
        before = Counter(device.waits)
        found = plain(self, *args)
        each.append(device.waits - before)
        return found

    monkeypatch.setattr(Training, "_one_step", step)
    train(tmp_path / "run", "pretend", "batch_norm", optimizer, steps=6)
    assert len(each) == 6
    # DISAM's weights may be negative, which is said in a line of the log.
    assert each[3] == Counter(STEP) + Counter(_local_scalar_dense=optimizer == "disam")


METHODS = ("ERM", "SAM", "USAM", "ASAM", "GSAM", "SAGM", "DISAM", "FSAM", "WSAM", "VREx", "LookSAM", "EntropySGD")


@pytest.mark.parametrize("name", METHODS)
def test_a_step_that_neither_checks_nor_logs_does_not_wait(device: Device, name: str):
    model, x, y, domain = network("pretend")
    base = torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    options = {"check_finite": False}
    optimizer = landscape.ERM(base, options) if name == "ERM" else getattr(landscape, name)(base, **options)
    members = torch.stack([domain == i for i in range(3)]).to(x.dtype)

    def closure() -> landscape.BatchLoss:
        each = F.cross_entropy(model(x), y, reduction="none")
        counts = members.sum(1)
        return landscape.BatchLoss(each.mean(), (members / counts[:, None]) @ each, counts)

    optimizer.step(closure)
    device.waits.clear()
    for _ in range(2):
        optimizer.step(closure)
    assert device.waits == NONE
    optimizer.check_finite = True
    optimizer.step(closure)
    assert device.waits.total() == 1
