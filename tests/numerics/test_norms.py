"""BatchNorm and InstanceNorm of one example: torch's own gradients there are wrong, ours against differences."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import assert_untouched, problem_of, snapshot
from torch import Tensor, nn

from landscape.measures.engine.norm_ball import NormBall
from landscape.measures.m_sharpness import block_sharpness
from landscape.numerics.norms import right_for_one_example

G = torch.Generator().manual_seed(0)
X = torch.randn(3, 3, 6, 6, generator=G, dtype=torch.float64)
Y = torch.tensor([0, 2, 1])


class Tokens(nn.Module):
    """A normalised stem whose pixels become tokens, as in front of transformers."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, 2), norm
        self.mix, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).flatten(2).transpose(1, 2)
        return self.head(torch.tanh(self.mix(x)).square().mean(1))


class Map(nn.Module):
    """Tokens that become a picture again, which is normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.norm, self.head = nn.Linear(3, 4), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (6, 6))
        return self.head(F.max_pool2d(torch.tanh(self.norm(x)), 3).sum((2, 3)))


class Called(nn.Module):
    """The function, by a keyword, in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bias = nn.Conv3d(1, 4, 3), nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, 3)
        self.register_buffer("mean", torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.unsqueeze(1))
        x = F.batch_norm(input=x, running_mean=self.mean, running_var=self.mean + 1, bias=self.bias)
        return self.head(torch.tanh(x.flatten(2).mT @ torch.eye(4, dtype=x.dtype)).prod(1))


NETWORKS = {
    "BatchNorm": lambda: Tokens(nn.BatchNorm2d(4)),
    "InstanceNorm": lambda: Tokens(nn.InstanceNorm2d(4, affine=True)),
    "tokens in": Map,
    "function": Called,
}


def made(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = NETWORKS[name]().double().eval()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean += torch.randn(4)
                    module.running_var += torch.rand(4)
    return model


def directions(model: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.parameters()]


def slope(model: nn.Module, x: Tensor, y: Tensor, v: list[Tensor], h: float = 1e-5) -> float:
    """The derivative of the loss along v, from two losses."""

    def at(step: float) -> float:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), v, strict=True):
                p.add_(d, alpha=step)
            return F.cross_entropy(moved(x), y).item()

    return (at(h) - at(-h)) / (2 * h)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_gradient_is_that_of_the_loss_whatever_the_batches(name: str, batch_size: int):
    model = made(name)
    before = snapshot(model)
    problem = problem_of(model, (X, Y), batch_size=batch_size)
    gradient = problem.gradient()
    v = directions(model)
    flat = torch.cat([d.reshape(-1) for d in v])
    assert float(gradient @ flat) == pytest.approx(slope(model, X, Y, v), rel=1e-7)
    # and its derivative
    moved = [copy.deepcopy(model) for _ in range(2)]
    with torch.no_grad():
        for network, h in zip(moved, (1e-6, -1e-6), strict=True):
            for p, d in zip(network.parameters(), v, strict=True):
                p.add_(d, alpha=h)
    up, down = (problem_of(network, (X, Y), batch_size=3).gradient() for network in moved)
    product = (up - down) / 2e-6
    assert float((problem.hvp(flat) - product).norm() / product.norm()) < 1e-7
    assert_untouched(model, before)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", ["loop", "stack"])
def test_sharpness_of_single_examples(name: str, way: str):
    """To first order the rise is rho times the mean length of the examples' gradients."""
    model, rho = made(name), 1e-6
    lengths = []
    for i in range(3):
        pair = X[i : i + 1].repeat(2, 1, 1, 1), Y[i : i + 1].repeat(2)  # two of the same: torch is right there
        loss = F.cross_entropy(model(pair[0]), pair[1])
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        lengths.append(sum(float(g.square().sum()) for g in gradient) ** 0.5)
    found = block_sharpness(problem_of(model, (X, Y)), [NormBall(rho)], m=1, way=way)[0].value
    assert found == pytest.approx(rho * sum(lengths) / 3, rel=1e-4)


def test_a_network_in_training_gets_it_too_and_its_copy_once():
    """By batch statistics, one picture: the hooks of a copied network are not doubled."""
    model = made("BatchNorm").train()
    own = copy.deepcopy(model)
    for _ in range(2):
        right_for_one_example(own)
        own = copy.deepcopy(own)
    assert len(own._forward_hooks) == len(own._forward_pre_hooks) == 1
    v = directions(model)
    gradient = torch.autograd.grad(F.cross_entropy(own(X[:1]), Y[:1]), list(own.parameters()))
    along = sum(float((g * d).sum()) for g, d in zip(gradient, v, strict=True))
    assert along == pytest.approx(slope(model, X[:1], Y[:1], v), rel=1e-7)
