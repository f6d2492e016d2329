"""The pretend device itself: what a real one would refuse or wait for, it refuses and counts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from .pretend import Device, pretending


def test_it_is_there_only_inside(device: Device):
    assert str(torch.accelerator.current_accelerator(check_available=True)) == "pretend"
    device.present = False
    assert torch.accelerator.current_accelerator(check_available=True) is None


def test_a_misplaced_tensor_is_an_error(device: Device):
    here = torch.ones(3, device="pretend")
    for meet in (lambda: here + torch.ones(3), lambda: here.add_(torch.ones(3)), lambda: torch.ones(3) @ here):
        with pytest.raises(RuntimeError, match="same device"):
            meet()
    assert (here + torch.tensor(2.0)).tolist() == [3, 3, 3]  # a number may


def test_what_waits_is_counted(device: Device):
    x = torch.ones(3, device="pretend")
    device.waits.clear()
    for wait in (x.sum().item, x.cpu, x.tolist, lambda: float(x[0]), lambda: x[x > 0], lambda: torch.ones(3).to(x)):
        before = device.waits.total()
        wait()
        assert device.waits.total() > before
    before = device.waits.total()
    ((x * 2).tanh() @ x).add_(1)
    x.to("cpu", non_blocking=True)
    assert device.waits.total() == before


def test_memory_runs_out(device: Device):
    x = torch.ones(100, device="pretend")
    device.fails_at = 1
    x + 1
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        x + 1
    x + 1
    device.fails_above = 1000
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(1000, device="pretend")
    x.view(10, 10)  # takes none


def test_without_float64(without_float64: Device):
    for make in (
        lambda: torch.ones(2, dtype=torch.float64, device="pretend"),
        lambda: torch.ones(2, device="pretend").double(),
        lambda: torch.ones(2, dtype=torch.float64).to("pretend"),
    ):
        with pytest.raises(TypeError, match="float64"):
            make()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_second_derivatives_of_cells(device: Device, kind: type[nn.Module]):
    torch.manual_seed(0)
    model, x = kind(3, 4, batch_first=True).double(), torch.randn(2, 5, 3, dtype=torch.float64)

    def second(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
        own = list(model.parameters())
        first = torch.autograd.grad(model(x)[0].square().sum(), own, create_graph=True)
        return [g.cpu() for g in torch.autograd.grad(sum(g.square().sum() for g in first), own)]

    expected = second(model, x)
    for a, b in zip(expected, second(copy.deepcopy(model).to("pretend"), x.to("pretend")), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_nothing_is_left_behind(device: Device):
    with pretending(float64=False, fails_at=5):
        pass
    assert device.float64
    assert device.fails_at is None
