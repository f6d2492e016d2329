"""GSAM's radius stays between its ends, whatever moves the learning rate, and follows the schedule's own peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as S

from landscape.base.errors import UsageError
from landscape.optim import DISAMGSAM, GSAM, BatchLoss

RHO, LOW = 0.05, 0.01
PEAK = 0.1

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "warm-up": lambda o: S.LinearLR(o, 0.01, 1.0, 5),
    "cosine": lambda o: S.CosineAnnealingLR(o, 10),
    "warm-up, then cosine": lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, 1, 3), S.CosineAnnealingLR(o, 9)], [3]),
    "one cycle": lambda o: S.OneCycleLR(o, max_lr=PEAK, total_steps=12),
    "cyclic": lambda o: S.CyclicLR(o, 0.01, PEAK, step_size_up=4),
    "restarts": lambda o: S.CosineAnnealingWarmRestarts(o, 4),
    "beyond": lambda o: S.LambdaLR(o, lambda t: 1 + t),
    "constant": lambda o: S.ConstantLR(o, 0.5, 5),
}


def group_of(lr: float = PEAK) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.ones(2).double())], lr=lr, momentum=0.9)


def radii(optimizer: GSAM, scheduler: Any, steps: int = 11) -> list[tuple[float, float]]:
    """Learning rate and length of the climb at each step."""
    (p,) = optimizer.parameters()
    found = []
    for _ in range(steps):
        at: list[torch.Tensor] = []

        def closure(at: list[torch.Tensor] = at) -> BatchLoss:
            at.append(p.detach().clone())
            loss = (p**2).sum()
            return BatchLoss(loss, torch.stack([loss, loss]), torch.tensor([1, 1]))

        lr = float(optimizer.param_groups[0]["lr"])
        optimizer.step(closure)
        found.append((lr, float((at[1] - at[0]).norm())))
        scheduler.step()
    return found


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("order", ["scheduler first", "wrapper first", "on the wrapper"])
@pytest.mark.parametrize("method", [GSAM, DISAMGSAM])
def test_it_is_the_interpolation_of_the_rate_within_its_ends(name: str, order: str, method: type[GSAM]):
    base = group_of()
    if order == "scheduler first":
        scheduler = SCHEDULES[name](base)
        hidden = {"lr_max": PEAK} if name == "cyclic" else {}
        optimizer = method(base, rho=RHO, rho_min=LOW, **hidden)
    else:
        optimizer = method(base, rho=RHO, rho_min=LOW)
        scheduler = SCHEDULES[name](optimizer if order == "on the wrapper" else base)
    found = radii(optimizer, scheduler)
    for lr, radius in found:
        assert radius == pytest.approx(LOW + (RHO - LOW) * min(lr / PEAK, 1.0), rel=1e-9)
        assert LOW * (1 - 1e-9) <= radius <= RHO * (1 + 1e-9)
    assert len({round(lr, 9) for lr, _ in found}) > 1


def test_a_rate_below_the_least_has_the_least_radius():
    optimizer = GSAM(group_of(), rho=RHO, rho_min=0.0, lr_min=0.01)
    scheduler = S.LinearLR(optimizer, 0.001, 1.0, 5)
    found = radii(optimizer, scheduler, 3)
    assert found[0][1] == 0
    assert found[1][1] == pytest.approx(RHO * (found[1][0] - 0.01) / (PEAK - 0.01))


def test_groups_have_peaks_of_their_own():
    a, b, c = (nn.Parameter(torch.ones(1).double()) for _ in range(3))
    base = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.4}], lr=1.0, momentum=0.9)
    scheduler = S.OneCycleLR(base, max_lr=[0.1, 0.4], total_steps=10)
    optimizer = GSAM(base, rho=RHO, rho_min=LOW)
    shares = [g["lr"] / g["max_lr"] for g in base.param_groups]
    expected = [LOW + (RHO - LOW) * s for s in shares]
    assert [optimizer.radius(g) for g in optimizer.param_groups] == pytest.approx(expected)
    optimizer.add_param_group({"params": [c], "lr": 0.2})
    assert optimizer.radius(optimizer.param_groups[2]) == RHO
    assert scheduler.get_last_lr()


def test_a_peak_below_the_least_rate_is_refused():
    optimizer = GSAM(group_of(lr=0.001), rho=RHO, rho_min=LOW, lr_min=0.01)
    with pytest.raises(UsageError, match=r"lr_min=0.01 is above the largest learning rate 0.001"):
        optimizer.step(lambda: BatchLoss((optimizer.parameters()[0] ** 2).sum()))
    assert optimizer.parameters()[0].tolist() == [1, 1]


def test_where_both_are_equal_the_radius_is_rho():
    optimizer = GSAM(group_of(lr=0.01), rho=RHO, rho_min=LOW, lr_min=0.01)
    assert optimizer.radius(optimizer.param_groups[0]) == RHO


def test_a_learning_rate_that_is_a_tensor():
    base = torch.optim.SGD([nn.Parameter(torch.ones(2).double())], lr=torch.tensor(PEAK))
    optimizer = GSAM(base, rho=RHO, rho_min=LOW)
    base.param_groups[0]["lr"].mul_(0.5)
    assert optimizer.radius(optimizer.param_groups[0]) == pytest.approx((RHO + LOW) / 2)
