"""One block of autocast around a whole step, in place of one around each forward pass: the same weights.

Torch keeps what autocast makes of the weights until the block ends. A pass at other weights would not see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.optim import SAM, BatchLoss, MicroBatches

from .problems import METHODS, MICRO

X, Y, DOMAIN = (
    torch.randn(24, 4, generator=torch.Generator().manual_seed(1)),
    torch.arange(24) % 3,
    torch.arange(24) % 2,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def half() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def trained(make: Callable[..., Any], *, around: bool, pieces: int = 0) -> list[Tensor]:
    """Weights after four steps, with autocast around each whole step or around each forward pass."""
    model = network()
    optimizer = make(torch.optim.SGD(model.named_parameters(), lr=0.5, momentum=0.5))

    def loss_of(x: Tensor, y: Tensor, domain: Tensor) -> BatchLoss:
        if around:
            return BatchLoss.of_examples(F.cross_entropy(model(x), y, reduction="none"), domain, domains=2)
        with half():
            losses = F.cross_entropy(model(x), y, reduction="none")
        return BatchLoss.of_examples(losses, domain, domains=2)

    def closure() -> BatchLoss | MicroBatches:
        if not pieces:
            return loss_of(X, Y, DOMAIN)
        parts = zip(X.chunk(pieces), Y.chunk(pieces), DOMAIN.chunk(pieces), strict=True)
        return MicroBatches([lambda part=part: loss_of(*part) for part in parts], [len(X) // pieces] * pieces)

    for _ in range(4):
        torch.manual_seed(3)
        if around:
            with half():
                optimizer.step(closure)
        else:
            optimizer.step(closure)
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("method", METHODS)
def test_around_a_step_is_inside_the_closure(method: str) -> None:
    inside = trained(METHODS[method], around=False)
    assert all(map(torch.equal, inside, trained(METHODS[method], around=True)))
    if method != "erm":  # and that is another thing than plain SGD
        plain = trained(METHODS["erm"], around=True)
        assert max(float((a - b).abs().max()) for a, b in zip(inside, plain, strict=True)) > 1e-4


@pytest.mark.parametrize("method", ["disam", "vrex", *MICRO[:2]])
@pytest.mark.parametrize("own", [False, True])
def test_with_micro_batches(method: str, own: bool) -> None:
    def make(base: Any) -> Any:
        return METHODS[method](base, **({"micro_batches": True} if own and method in MICRO else {}))

    inside, around = (trained(make, around=where, pieces=3) for where in (False, True))
    assert all(map(torch.equal, inside, around))


def test_in_two_calls() -> None:
    def two_calls(around: bool) -> list[Tensor]:
        model = network()
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.5), rho=0.5)

        def backward() -> None:
            with half():
                loss = F.cross_entropy(model(X), Y)
            loss.backward()

        def step() -> None:
            backward()
            optimizer.first_step(zero_grad=True)
            backward()
            optimizer.second_step(zero_grad=True)

        if around:
            with half():
                for _ in range(3):
                    step()
        else:
            for _ in range(3):
                step()
        return [p.detach() for p in model.parameters()]

    assert all(map(torch.equal, two_calls(True), two_calls(False)))
