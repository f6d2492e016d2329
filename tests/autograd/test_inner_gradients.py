"""Networks that take gradients in their own forward: physics-informed ones, energies, inner steps, ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import flat_function, problem_of
from torch import Tensor, nn

from landscape import domains, hessian, sharpness, surface
from landscape.problem.forward import forward
from landscape.problem.problem import Problem
from landscape.problem.products import Products


class Net(nn.Module):
    def __init__(self, way: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(2, 5), nn.Linear(5, 3)
        self.way = way

    def plain(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def residual(net: Net, x: Tensor) -> Tensor:
    """A second-order equation, as physics-informed networks have it; marks its input as wanting gradients."""
    x = x.requires_grad_()
    u = net.plain(x)
    slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    return torch.autograd.grad(slope.sum(), x, create_graph=True)[0].sum(1, keepdim=True) + u


def force(net: Net, x: Tensor) -> Tensor:
    """Minus the slope of an energy, of an input that is copied first."""
    x = x.clone().requires_grad_()
    energy = torch.tanh(net.plain(x)).sum()
    return net.plain(x) - F.pad(torch.autograd.grad(energy, x, create_graph=True)[0], (0, 1))


def inner_step(net: Net, x: Tensor) -> Tensor:
    """Adapts a layer to the batch before it answers."""
    inner = net.plain(x).square().mean(1).sum()
    (g,) = torch.autograd.grad(inner, net.first.bias, create_graph=True)
    return net.last(torch.tanh(F.linear(x, net.first.weight, net.first.bias)) - 0 * g) + net.plain(x)


def jacobian(net: Net, x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(net.plain))(x).sum(2) + net.plain(x)


def slope_by_func(net: Net, x: Tensor) -> Tensor:
    per_example = torch.func.vmap(torch.func.grad(lambda one: torch.tanh(net.plain(one)).sum()))
    return F.pad(per_example(x), (0, 1)) + net.plain(x)


def forward_mode(net: Net, x: Tensor) -> Tensor:
    value, tangent = torch.func.jvp(net.plain, (x,), (torch.ones_like(x),))
    return value + tangent


WAYS = {
    "residual": residual,
    "force": force,
    "inner step": inner_step,
    "jacobian": jacobian,
    "slope by torch.func": slope_by_func,
    "forward mode": forward_mode,
}


def problem(name: str) -> Problem:
    x = torch.rand(9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return problem_of(Net(WAYS[name]), (x, torch.arange(9) % 3), dtype="float64", batch_size=9)


def reference(name: str) -> tuple[float, Tensor, Tensor]:
    """Loss, gradient and Hessian by nested differentiation of the plain loss, without anything of ours."""
    x = torch.rand(9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def call(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(x.clone()), torch.arange(9) % 3)

    function, weights = flat_function(Net(WAYS[name]).double(), call)
    weights.requires_grad_()
    value = function(weights)
    (gradient,) = torch.autograd.grad(value, weights)
    step, rows = 1e-4, []
    for i in range(len(weights)):
        ends = []
        for sign in (1, -1):
            moved = weights.detach().clone()
            moved[i] += sign * step
            moved.requires_grad_()
            ends.append(torch.autograd.grad(function(moved), moved)[0])
        rows.append((ends[0] - ends[1]) / (2 * step))
    return float(value.detach()), gradient, torch.stack(rows)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch.func.jvp's own
@pytest.mark.parametrize("name", WAYS)
def test_loss_gradient_and_curvature_are_those_of_plain_torch(name: str):
    value, gradient, matrix = reference(name)
    here = problem(name)
    assert here.loss() == pytest.approx(value, rel=1e-12)
    assert torch.allclose(here.gradient(), gradient, rtol=1e-9, atol=1e-12)
    v = torch.sin(torch.arange(here.n_parameters, dtype=torch.float64))
    for memory in (None, 0):
        with Products(here, memory=memory) as products:
            for _ in range(2):
                assert torch.allclose(products(v), matrix @ v, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch.func.jvp's own
@pytest.mark.parametrize("name", WAYS)
def test_every_analysis_works(name: str):
    value, _, matrix = reference(name)
    here = problem(name)
    found = hessian(here, top=1)
    assert found["eigenvalues"][0] == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-3)
    assert found["derivatives"]["note"] is None
    rows = sharpness(here, measure=("m-sharpness", "average-case", "gradient-norm"), m=(3,), draws=3)["measures"]
    assert all(row["value"] == row["value"] for row in rows)
    assert surface(here, dim=1, points=3, range=0.1)["center_loss"] == pytest.approx(value, rel=1e-9)
    assert domains(here)["loss"] == pytest.approx(value, rel=1e-9)


def test_a_kept_input_is_not_marked():
    here = problem("residual")
    here.loss()
    here.loss()
    (batch,) = here.micro_batches()
    assert not batch.inputs.requires_grad


def test_outputs_without_a_graph_are_given():
    model = Net(residual)
    with torch.no_grad():
        output = forward(model, torch.rand(3, 2))
    assert not output.requires_grad
    assert output.shape == (3, 3)


def test_other_errors_of_a_forward_pass_unchanged():
    def broken(net: Net, x: Tensor) -> Tensor:
        raise RuntimeError("something else")

    with torch.no_grad(), pytest.raises(RuntimeError, match="something else"):
        forward(Net(broken), torch.rand(3, 2))
