"""Operations and layers as people use them, each inside a tiny network whose curvature is asked for.

A case is a function that builds a network with deterministic weights; nothing in it is drawn from a generator, so
that it is the same on every machine.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

N = 3  # examples
INPUTS = 4
LABELS = torch.tensor([0, 2, 1])
TOKENS = torch.tensor([[0, 3, 3, 1], [2, 4, 1, 0], [5, 2, 2, 2]])


def wave(*shape: int, rate: float = 1.7, phase: float = 0.3, factor: float = 0.8) -> Tensor:
    """Numbers without order, the same everywhere, ``shape``, float64."""
    count = math.prod(shape)
    return (factor * torch.sin(rate * torch.arange(count, dtype=torch.float64) ** 1.3 + phase)).reshape(shape)


def fill(model: nn.Module) -> nn.Module:
    """Give every parameter numbers of its own."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(wave(*parameter.shape, rate=1.1 + 0.37 * i, phase=0.2 * i))
    return model


class Through(nn.Module):
    """A linear map (or an embedding) into ``shape``, the operation, and a linear map to three outputs."""

    def __init__(self, operation: Callable[..., Any], shape: tuple[int, ...] = (6,), first: nn.Module | None = None):
        super().__init__()
        self.shape, self.operation = shape, operation
        self.first = first or nn.Linear(INPUTS, math.prod(shape))
        self.double()
        with torch.no_grad():
            x = TOKENS if first is not None else torch.zeros(N, INPUTS, dtype=torch.float64)
            width = self._middle(x).shape[1]
        self.last = nn.Linear(width, 3).double()

    def _middle(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        found = self.operation(inner if inner.shape[1:] == self.shape else inner.reshape(len(x), *self.shape))
        if isinstance(found, tuple):
            found = found[0]
        return torch.view_as_real(found).flatten(1) if found.is_complex() else found.reshape(len(x), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self._middle(x)))


class Outputs(nn.Module):
    """A linear map to as many outputs as a loss wants."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.map = nn.Linear(INPUTS, width).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


@dataclass(frozen=True)
class Operation:
    """How to build it, and with what it is asked.

    Attributes:
        model: The network, its weights still to be filled.
        tokens: Whether its inputs are token numbers.
        loss: A loss of outputs and targets, or the name of one.
        slow: Whether building it takes long.
    """

    model: Callable[[], nn.Module]
    tokens: bool = False
    loss: Any = "cross_entropy"
    slow: bool = False

    def build(self) -> tuple[nn.Module, Tensor]:
        """The filled network in eval mode, and its inputs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what is deprecated and still met
            model = fill(self.model().double()).eval()
        return model, TOKENS if self.tokens else wave(N, INPUTS, rate=0.9, factor=1.2)


OPERATIONS: dict[str, Operation] = {}


def add(name: str, operation: Callable[..., Any], *shape: int) -> None:
    """An operation on one tensor of ``shape`` per example."""
    OPERATIONS[name] = Operation(lambda: Through(_made(operation), shape or (6,)))


def layer(name: str, make: Callable[[], nn.Module], *shape: int, slow: bool = False) -> None:
    """A layer, built anew for each network."""
    OPERATIONS[name] = Operation(lambda: Through(make(), shape or (6,)), slow=slow)


def tokens(name: str, make: Callable[[], nn.Module], operation: Callable[..., Any], *shape: int) -> None:
    """A layer that token numbers go into."""
    OPERATIONS[name] = Operation(lambda: Through(operation, shape, first=make()), tokens=True)


def loss(name: str, function: Callable[[Tensor, Tensor], Tensor], width: int = 3) -> None:
    """A loss of ``width`` outputs and a label."""
    OPERATIONS[name] = Operation(lambda: Outputs(width), loss=function)


def _made(operation: Callable[..., Any]) -> Callable[..., Any]:
    return operation


def positive(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function of numbers above one half."""
    return lambda x: function(x.square() + 0.5)


def unit(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function of numbers inside (-0.9, 0.9)."""
    return lambda x: function(0.9 * torch.tanh(x))


class Twice(nn.Module):
    """A layer of two inputs, given the same one twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, x)
