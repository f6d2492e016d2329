"""The public conformance suites pass what is right, and name what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from landscape.measures.engine.measurement import Measurement
from landscape.optim import ASAM, DISAM, ERM, GSAM, SAGM, SAM, USAM, VREx
from landscape.registry import MEASURES
from landscape.specs import SharpnessSpec
from landscape.testing import check_measure, check_model, check_optimizer


@pytest.mark.parametrize("method", [ERM, SAM, USAM, ASAM, GSAM, SAGM, DISAM, VREx])
def test_our_own_optimizers_conform(method: Any):
    check_optimizer(lambda parameters: method(torch.optim.SGD(parameters, lr=0.05, momentum=0.9)))


class Forgets(SAM):
    def state_dict(self) -> dict[str, Any]:
        found = super().state_dict()
        return {**found, "base": {**found["base"], "state": {}}} if "base" in found else {**found, "state": {}}


class Rises(SAM):
    def base_step(self) -> None:
        for m in self.moved():
            m.gradient = -m.gradient
        super().base_step()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: Forgets(torch.optim.SGD(p, lr=0.05, momentum=0.9)), "saved state"),
        (lambda p: Rises(torch.optim.SGD(p, lr=0.05)), "the loss rose"),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_named(make: Any, said: str):
    with pytest.raises(AssertionError, match=said):
        check_optimizer(make)


@pytest.mark.parametrize("name", [n for n in MEASURES if n != "distance-from-start"])
def test_our_own_measures_conform(name: str):
    check_measure(MEASURES.load(name), SharpnessSpec(measure=(name,)))


def moves(problem: Any, spec: Any, seed: int) -> list[Measurement]:
    with torch.no_grad():
        next(iter(problem.model.parameters())).add_(1)
    return [Measurement(value=1.0)]


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (moves, "other weights"),
        (lambda p, s, seed: [], "nothing"),
        (lambda p, s, seed: [1.0], "something else"),
        (lambda p, s, seed: [Measurement(value=float("nan"))], "nan"),
        (lambda p, s, seed: [Measurement(value=float(torch.rand(())))], "random numbers"),
        (lambda p, s, seed: [Measurement(value=float(p.batch_size))], "micro-batches"),
    ],
)
def test_what_is_wrong_with_a_measure_is_named(measure: Any, said: str):
    with pytest.raises(AssertionError, match=said):
        check_measure(measure)


class Cut(nn.Module):
    """A network half of whose derivative is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x)
        return z + 0.5 * z.detach()


def test_models():
    data = (torch.randn(12, 4), torch.arange(12) % 3)
    check_model(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)), data)
    with pytest.raises(AssertionError, match="layer"):
        check_model(Cut(), data)
