"""What a problem's construction says of losses and outputs that are unusual, beside what plain torch computes."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.base.errors import DataError, NumericalError, UsageError
from landscape.problem.problem import Problem

N = 23


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 4, (N,), generator=generator)


def by_hand(value: Tensor, model: nn.Module) -> tuple[float, Tensor]:
    gradient = torch.autograd.grad(value, list(model.parameters()))
    return float(value.detach()), torch.cat([g.flatten() for g in gradient])


class Wrapped(nn.Module):
    def __init__(self, ending: Any) -> None:
        super().__init__()
        self.net, self.ending = network(), ending

    def forward(self, x: Tensor) -> Any:
        return self.ending(self.net(x))


def noisy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output + 0.1 * torch.randn_like(output), target)


def seldom_noisy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target) + float(torch.rand(()) < 0.2)


class Counts:
    calls = 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return F.cross_entropy(output, target) * (1 + 0.01 * self.calls)


@pytest.mark.parametrize("mode", [{}, {"mode": "train", "replay_seed": 1}])
@pytest.mark.parametrize("loss_over", ["example", "batch"])
@pytest.mark.parametrize("loss", [noisy, seldom_noisy, Counts()])
def test_a_loss_that_is_no_function_is_refused(loss: Any, loss_over: str, mode: dict[str, Any]):
    torch.manual_seed(3)
    with pytest.raises(NumericalError, match=r"differ|give"):
        Problem(network(), data(), loss, device="cpu", loss_over=loss_over, batch_size=10, **mode)


def in_place(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.mul_(2), target)


@pytest.mark.parametrize("loss_over", ["example", "batch"])
def test_a_loss_that_writes_into_outputs_is_refused(loss_over: str):
    with pytest.raises(UsageError, match="writes into the outputs"):
        Problem(network(), data(), in_place, device="cpu", loss_over=loss_over)


def test_outputs_may_hold_tensors_without_a_row_per_example():
    model = Wrapped(lambda z: (z, torch.ones(4, 4, dtype=z.dtype)))
    (x, y), loss = data(), lambda o, t: F.cross_entropy(o[0] @ o[1].tril(), t)
    value, gradient = by_hand(loss(model(x), y), model)
    problem = Problem(model, (x, y), loss, device="cpu", batch_size=5)
    assert problem.loss() == pytest.approx(value, rel=1e-12)
    assert torch.allclose(problem.gradient(), gradient, rtol=1e-10)
    halves = {"a": (x[:9], y[:9]), "b": (x[9:], y[9:])}
    found = Problem(model, halves, loss, device="cpu").evaluate().domains
    assert found["b"].loss == pytest.approx(float(loss(model(x[9:]), y[9:]).detach()), rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_an_auxiliary_loss_of_the_batch_is_no_mean(seed: int):
    torch.manual_seed(seed)
    model = Wrapped(lambda z: (z, (z.softmax(1).mean(0) ** 2).sum())).float()
    x, y = torch.randn(40, 3), torch.randint(0, 4, (40,))
    with pytest.raises(UsageError, match="no mean over examples"):
        Problem(model, (x, y), lambda o, t: F.cross_entropy(o[0], t) + o[1], device="cpu")


@pytest.mark.parametrize("n", [1, 2, 3, 5, 23])
def test_outputs_may_be_squeezed(n: int):
    model = Wrapped(lambda z: z[:, :1].squeeze())
    x = data()[0][:n]
    y = x.sum(1)
    value, gradient = by_hand(F.mse_loss(model.net(x)[:, 0], y), model)
    problem = Problem(model, (x, y), lambda o, t: F.mse_loss(o.reshape(t.shape), t), device="cpu")
    assert problem.loss() == pytest.approx(value, rel=1e-12)
    assert torch.allclose(problem.gradient(), gradient, rtol=1e-10, atol=1e-14)


def test_hooks_on_the_gradients_of_weights_are_no_part_of_the_loss():
    model, (x, y) = network(), data()
    value, gradient = by_hand(F.cross_entropy(model(x), y), model)
    called: list[int] = []
    model[0].weight.register_hook(lambda g: called.append(1) or g * 0)
    problem = Problem(model, (x, y), "cross_entropy", device="cpu")
    assert problem.loss() == pytest.approx(value, rel=1e-12)
    assert torch.allclose(problem.gradient(), gradient, rtol=1e-10)
    assert not called
    F.cross_entropy(model(x), y).backward()
    assert called == [1]  # the caller's network still has it
    assert not model[0].weight.grad.any()


def test_what_has_no_copy_is_named_and_can_be_handed_over():
    model, (x, y) = network(), data()
    model.lock = threading.Lock()
    with pytest.raises(UsageError, match=r"cannot be copied.*lock.*copy=False"):
        Problem(model, (x, y), device="cpu")
    value = float(F.cross_entropy(model(x), y).detach())
    assert Problem(model, (x, y), device="cpu", copy=False).loss() == pytest.approx(value, rel=1e-12)


class Remembers(nn.Module):
    """Keeps what it saw, in every way that a module keeps something."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__()
        self.net, self.error = network(), error
        self.seen, self.named, self.last = [1], {"a": 1}, None

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "lazy"):
            self.register_buffer("lazy", torch.ones((), dtype=x.dtype))
        self.seen[:], self.named["b"], self.last = [len(x)], len(x), x
        if self.error is not None:
            raise self.error
        return self.net(x) * self.lazy


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), RuntimeError("no")])
def test_the_attributes_of_the_callers_network_are_what_they_were(error: BaseException | None):
    model = Remembers(error)
    with pytest.raises((KeyboardInterrupt, DataError)) if error else nullcontext():
        Problem(model, data(), device="cpu")
    assert (model.seen, model.named, model.last) == ([1], {"a": 1}, None)
    assert not hasattr(model, "lazy")
    assert model.training


def test_lazy_layers_without_weights_are_named():
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(UsageError, match=r"no weights yet: 0\.weight"):
        Problem(model, data(), device="cpu")
    model.double()(data()[0])
    assert Problem(model, data(), device="cpu").n_parameters == 16
