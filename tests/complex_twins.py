"""Complex networks, each with a twin that keeps the same numbers as real pairs: every analysis must agree on both.

The twin's weights have the names of the complex ones and the shape ``(..., 2)``; numbers of one dimension or less are
kept in one dimension, ``(2n,)``, so that both are biases to whoever treats biases apart.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.problem.problem import Problem

TWINS = [False, True]


class Numbers(nn.Module):
    """Complex parameters and buffers by name, kept as they are or as real pairs."""

    def __init__(self, pairs: bool, buffers: Mapping[str, Tensor] | None = None, **values: Tensor) -> None:
        super().__init__()
        self.pairs = pairs
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(self.kept(value)))
        for name, value in (buffers or {}).items():
            self.register_buffer(name, self.kept(value))

    def kept(self, value: Tensor) -> Tensor:
        if not self.pairs:
            return value.clone()
        real = torch.view_as_real(value).clone()
        return real.reshape(-1) if value.ndim <= 1 else real

    def number(self, name: str, ndim: int) -> Tensor:
        kept = getattr(self, name)
        if not self.pairs:
            return kept
        if ndim == 0:
            return torch.view_as_complex(kept)
        return torch.view_as_complex(kept.view(-1, 2) if ndim == 1 else kept)


class Layer(Numbers):
    """A complex matrix and shift."""

    def __init__(self, pairs: bool, inputs: int, outputs: int, generator: torch.Generator) -> None:
        weight, bias = draw((outputs, inputs), generator), draw((outputs,), generator)
        super().__init__(pairs, weight=weight, bias=0.3 * bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.number("weight", 2)
        return x.to(weight.dtype) @ weight.mH + self.number("bias", 1)


class Classifier(nn.Module):
    """Two complex layers, a complex number as scale, a complex buffer, and a real head: 5 inputs, 3 classes."""

    def __init__(self, pairs: bool, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.odd = nn.Parameter(torch.rand((), generator=g, dtype=torch.float64) + 0.5)  # an odd place for the rest
        self.first, self.second = Layer(pairs, 5, 4, g), Layer(pairs, 4, 3, g)
        self.scale = Numbers(pairs, {"turn": draw((3,), g)}, value=draw((), g) + 1)
        self.head = nn.Linear(3, 3, dtype=torch.float64)
        with torch.no_grad():
            for p in self.head.parameters():
                p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.odd * self.first(x))
        z = self.second(z) * self.scale.number("value", 0) * self.scale.number("turn", 1).conj()
        return self.head((z.abs().square() + 0.1).sqrt() + z.imag)


class Convolution(Numbers):
    """A complex convolution of complex inputs (n, 2, 7), complex outputs (n, 3)."""

    def __init__(self, pairs: bool) -> None:
        g = torch.Generator().manual_seed(1)
        super().__init__(pairs, weight=draw((3, 2, 3), g), bias=draw((3,), g))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.conv1d(x, self.number("weight", 3), self.number("bias", 1))).mean(2)


class RealWeights(nn.Module):
    """Real weights, complex inputs and a complex buffer."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(2)
        self.buffer = Numbers(pairs, {"mask": draw((4,), g)})
        self.linear = nn.Linear(4, 1, dtype=torch.float64)
        with torch.no_grad():
            for p in self.linear.parameters():
                p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((x * self.buffer.number("mask", 1)).real.tanh()).squeeze(1)


class Tied(nn.Module):
    """One complex matrix that maps there and, conjugated, back."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        self.there = Layer(pairs, 4, 3, torch.Generator().manual_seed(3))
        self.back = self.there

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.there(x))
        return (z @ self.back.number("weight", 2).conj()).abs().square()


def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 0.6 * torch.randn(shape, generator=generator, dtype=torch.complex128)


def classifier_data(n: int = 10) -> dict[str, tuple[Tensor, Tensor]]:
    """Two domains."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(2 * n, 5, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, (2 * n,), generator=g)
    return {"a": (x[:n], y[:n]), "b": (x[n:] + 0.3, y[n:])}


def complex_data(*shape: int, outputs: tuple[int, ...] = (), real_targets: bool = False) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(6)
    x = draw((20, *shape), g)
    y = draw((20, *outputs), g)
    return x, y.real.clone() if real_targets else y


def classifiers(**options: Any) -> list[Problem]:
    """The complex classifier and its twin."""
    options = {"batch_size": 16, "device": "cpu", **options}
    return [Problem(Classifier(pairs), classifier_data(), "cross_entropy", **options) for pairs in TWINS]


def dense_of_pairs(twin: nn.Module, inputs: Tensor, targets: Tensor, loss: Any) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of a twin's mean loss by plain torch, ``(n,)`` and ``(n, n)``."""
    twin = copy.deepcopy(twin)
    weights = list(twin.parameters())
    gradient = torch.autograd.grad(loss(twin(inputs), targets), weights, create_graph=True, materialize_grads=True)
    entries = torch.cat([g.reshape(-1) for g in gradient])
    rows = [
        torch.cat([h.reshape(-1) for h in torch.autograd.grad(e, weights, retain_graph=True, materialize_grads=True)])
        for g in gradient
        for e in g.reshape(-1)
    ]
    return entries.detach(), torch.stack(rows)


# What says how and when, or names the network, and is no number of the analysis.
_ASIDE = {
    "seconds", "model", "weights_hash", "b_weights_hash", "network_hash", "loss_hash", "products", "derivatives",
}  # fmt: skip


def numbers(tree: Any, place: str = "") -> dict[str, Any]:
    """Everything in a record by its place."""
    if isinstance(tree, Mapping):
        found = {}
        for key, value in tree.items():
            if key not in _ASIDE:
                found |= numbers(value, f"{place}.{key}")
        return found
    if isinstance(tree, (list, tuple)):
        found = {place: len(tree)}
        for i, value in enumerate(tree):
            found |= numbers(value, f"{place}[{i}]")
        return found
    return {place: tree}


def assert_same(first: Any, second: Any, rtol: float = 1e-10) -> int:
    """Two results, or records, with the same numbers, arrays and vectors; returns how many numbers were compared."""
    compared = 0
    for a, b in ((getattr(r, "record", r) for r in (first, second)),):
        ours, theirs = numbers(a), numbers(b)
        assert set(ours) == set(theirs)
        for place, value in ours.items():
            other = theirs[place]
            if isinstance(value, float) and isinstance(other, float):
                same = math.isclose(value, other, rel_tol=rtol, abs_tol=1e-12) or value == other
                assert same or (math.isnan(value) and math.isnan(other)), (place, value, other)
                compared += 1
            else:
                assert value == other, (place, value, other)
    if hasattr(first, "data"):
        for name in first.data.variables:
            ours, theirs = (np.asarray(r.data[name]) for r in (first, second))
            if ours.dtype.kind == "f":
                np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-12, err_msg=str(name))
                compared += ours.size
    for name, vector in (getattr(first, "vectors", None) or {}).items():
        other = second.vectors[name]
        assert not vector.is_complex()
        torch.testing.assert_close(vector.reshape(-1), other.reshape(-1), rtol=1e-7, atol=1e-9)
        compared += vector.numel()
    return compared
