"""Tiny networks of every family and three domains for each, in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from landscape.models.vit import Block


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double()


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.out = kind(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])


class _Words(nn.Module):
    """Embeddings, attention and a layer norm over whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.out = nn.Embedding(7, 8), Block(8, 2, causal=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.embed(x)).mean(1))


class _Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 4, dtype=torch.complex128) / 2)
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second((x.to(self.first.dtype) @ self.first.T).abs().square().tanh())

    def double(self) -> _Complex:
        self.second.double()
        return self


def convolution(seed: int = 0) -> nn.Module:
    """Convolution without running statistics: group norm."""
    return _seeded(lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ), seed)  # fmt: skip


def batch_norm(seed: int = 0) -> nn.Module:
    """Convolution, BatchNorm, max pooling, ReLU and dropout."""
    return _seeded(lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(16, 3),
    ), seed)  # fmt: skip


def attention(seed: int = 0) -> nn.Module:
    """Embeddings and a causal block."""
    return _seeded(_Words, seed)


def lstm(seed: int = 0) -> nn.Module:
    """A long short-term memory."""
    return _seeded(lambda: _Recurrent(nn.LSTM), seed)


def gru(seed: int = 0) -> nn.Module:
    """A gated recurrent unit."""
    return _seeded(lambda: _Recurrent(nn.GRU), seed)


def complex_weights(seed: int = 0) -> nn.Module:
    """Complex weights."""
    return _seeded(_Complex, seed)


def weight_norm(seed: int = 0) -> nn.Module:
    """A layer whose weight is made of a length and a direction."""
    return _seeded(lambda: nn.Sequential(
        nn.Flatten(), parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3)
    ), seed)  # fmt: skip


def _pixels(n: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, 1, 6, 6, generator=g, dtype=torch.float64)


def _vectors(n: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, 4, generator=g, dtype=torch.float64)


def _sequences(n: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, 5, 4, generator=g, dtype=torch.float64)


def _words(n: int, g: torch.Generator) -> Tensor:
    return torch.randint(0, 7, (n, 5), generator=g)


INPUTS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "convolution": _pixels,
    "batch_norm": _pixels,
    "attention": _words,
    "lstm": _sequences,
    "gru": _sequences,
    "complex_weights": _vectors,
    "weight_norm": _vectors,
}


def examples(family: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Domains of 9, 6 and 5 examples of three classes."""
    g = torch.Generator().manual_seed(3)
    return {d: (INPUTS[family](n, g), torch.arange(n) % 3) for d, n in (("a", 9), ("b", 6), ("c", 5))}


def data(family: str) -> dict[str, Any]:
    """The same for the trainer."""
    return {"train": examples(family)}
