"""Convolutions, alone and with the BatchNorm behind them: torch's values, right second derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import problem_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from landscape.autograd.substitutes import twice_differentiable
from landscape.problem.products import Products


class Network(nn.Module):
    """Two convolutions with BatchNorm in ``dim`` dimensions."""

    def __init__(self, dim: int = 2, *, affine: bool = True, **first: Any) -> None:
        super().__init__()
        conv, norm = (getattr(nn, f"{kind}{dim}d") for kind in ("Conv", "BatchNorm"))
        self.conv1, self.norm1 = conv(2, 4, 3, **first), norm(4, affine=affine)
        self.conv2, self.norm2 = conv(4, 4, 2, bias=False), norm(4)
        self.head = nn.Linear(4, 3)
        for layer in (self.norm1, self.norm2):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)

    def body(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm2(self.conv2(torch.tanh(self.norm1(self.conv1(x))))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(2).mean(2))


class TwoReaders(Network):
    def body(self, x: Tensor) -> Tensor:
        z = self.conv1(x)
        return torch.tanh(self.norm2(self.conv2(torch.tanh(self.norm1(z)) + z.sin())))


class WrittenInto(Network):
    """In place: between the first convolution and its BatchNorm, and after the second one."""

    def body(self, x: Tensor) -> Tensor:
        z = self.conv1(x)
        z += z.detach().mean((1, 2, 3), keepdim=True) + self.head.bias.sum()
        return self.conv2(torch.tanh_(self.norm1(z))).sigmoid_()


class Between(Network):
    """A convolution between another and its BatchNorm."""

    def body(self, x: Tensor) -> Tensor:
        z = self.conv1(x)
        y = self.conv2(z)
        return torch.tanh(self.norm1(z)).flatten(2).mean(2, keepdim=True) + torch.tanh(self.norm2(y)).flatten(2)


class Checkpointed(Network):
    def forward(self, x: Tensor) -> Tensor:
        if torch.overrides._get_current_function_mode() is None:  # torch.func goes through no checkpoint
            return super().forward(x)
        return self.head(checkpoint(self.body, x, use_reentrant=False).flatten(2).mean(2))


NETWORKS = {
    "plain": Network,
    "1-D": lambda: Network(1, padding=1),
    "3-D": lambda: Network(3),
    "bias, stride, padding": lambda: Network(stride=2, padding=(1, 2)),
    "groups, dilation": lambda: Network(groups=2, dilation=(2, 1), bias=False),
    "padding by name": lambda: Network(padding="same"),
    "padding by reflection": lambda: Network(padding=1, padding_mode="reflect"),
    "no scale of its own": lambda: Network(affine=False),
    "two readers": TwoReaders,
    "written into": WrittenInto,
    "a convolution between": Between,
    "checkpointed": Checkpointed,
}


def of(network: nn.Module, **options: Any):
    dim = network.conv1.weight.ndim - 2
    data = torch.randn(5, 2, *[6] * dim), torch.randint(0, 3, (5,))
    return problem_of(network, data, dtype="float64", **options)


@pytest.mark.parametrize("params", [None, "norm", "conv", "conv1.weight|norm1.bias"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_products_are_those_of_the_dense_hessian(name: str, params: str | None):
    torch.manual_seed(0)
    problem = of(NETWORKS[name](), params=params)
    space, batch = problem.space, problem.head(5)

    def loss(weights: Tensor) -> Tensor:
        output = functional_call(problem.model, space.named(weights), (batch.inputs,))
        return F.cross_entropy(output, batch.targets)

    dense = torch.autograd.functional.hessian(loss, problem.weights.clone())
    v = torch.randn(problem.n_parameters, dtype=torch.float64)
    for memory in (None, 0):
        with Products(problem, memory=memory) as products:
            torch.testing.assert_close(products(v), dense @ v, rtol=1e-10, atol=1e-12 * float(dense.abs().max()))


def nodes(output: Tensor) -> list[str]:
    found, queue = {}, [output.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in found:
            found[node] = type(node).__name__
            queue += [n for n, _ in node.next_functions]
    return list(found.values())


@pytest.mark.parametrize(
    ("name", "params", "folded", "plain"),
    [
        ("plain", None, 2, 0),
        ("padding by name", None, 1, 0),
        ("plain", "norm", 0, 0),  # where no convolution moves, an affine map is less work
        ("two readers", None, 2, 1),
        ("written into", None, 0, 2),
        ("a convolution between", None, 1, 1),
    ],
)
def test_what_is_folded_and_what_is_not(name: str, params: str | None, folded: int, plain: int):
    torch.manual_seed(0)
    problem = of(NETWORKS[name](), params=params)
    inputs = problem.head(5).inputs
    expected = problem.model(inputs)
    with twice_differentiable(set()):
        output = problem.model(inputs)
    names = nodes(output)
    assert names.count("_ValuedBackward") == folded + plain
    assert names.count("AddcmulBackward0") == (1 if name == "written into" else 2 - folded)
    assert not any("BatchNorm" in n for n in names)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


class InputWrittenInto(Network):
    def body(self, x: Tensor) -> Tensor:
        x = x * self.head.bias.sum().exp()
        z = self.conv1(x)
        x.mul_(2)
        return torch.tanh(self.norm2(self.conv2(torch.tanh(self.norm1(z)))))


def test_what_torch_refuses_to_differentiate_is_not_taken_for_something_else():
    torch.manual_seed(0)
    problem = of(InputWrittenInto())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        problem.gradient()
    for memory in (None, 0):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            Products(problem, memory=memory)(torch.ones(problem.n_parameters))


def test_complex_weights_are_left_to_torch():
    x, weight = torch.randn(1, 2, 5, 5, dtype=torch.complex64), torch.randn(3, 2, 3, 3, dtype=torch.complex64)
    with twice_differentiable(set()):
        assert "_ValuedBackward" not in nodes(F.conv2d(x, weight.requires_grad_()))
