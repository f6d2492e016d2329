"""The networks that the benchmarks measure on, each with its examples and a loss that peers can call.

`mlp` is trained on the embedded digits, `resnet20` is the published one on lossless CIFAR images
(LANDSCAPE_TEST_DATA), `vit` is trained for a moment on the same images, and `transformer` is a causal language
model of twelve layers with random weights.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape
from landscape.data.digits import digits
from landscape.models.mlp import mlp as build_mlp
from landscape.models.resnet import resnet20 as build_resnet20
from landscape.models.vit import Block
from landscape.models.vit import vit as build_vit
from landscape.weights.checkpoint import read_weights
from landscape.weights.load_state_dict import load_into


@dataclass(frozen=True)
class Work:
    """A network in evaluation mode with its examples in ``cut`` batches of equal size: what every tool is given."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    cut: int = 1

    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy, over examples or over tokens ``(n, tokens, vocabulary)``."""
        return F.cross_entropy(output.flatten(0, -2), target.flatten())

    def to(self, dtype: torch.dtype) -> Work:
        """A copy in another precision."""
        inputs = self.inputs.to(dtype) if self.inputs.is_floating_point() else self.inputs
        return replace(self, model=copy.deepcopy(self.model).to(dtype), inputs=inputs)

    def in_batches(self, cut: int) -> Work:
        """The same examples in several batches."""
        return replace(self, name=f"{self.name}, {cut} batches", cut=cut)

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """The examples, batch by batch."""
        return list(zip(self.inputs.chunk(self.cut), self.targets.chunk(self.cut), strict=True))

    def problem(self) -> landscape.Problem:
        """The same, on a copy of the network, as ours takes it."""
        loss = "cross_entropy" if self.targets.ndim == 1 else "token_cross_entropy"
        dtype = next(self.model.parameters()).dtype
        pair = (self.inputs, self.targets)
        size = len(self.targets) // self.cut
        return landscape.Problem(copy.deepcopy(self.model), pair, loss, batch_size=size, dtype=dtype)


class LanguageModel(nn.Module):
    """Tokens to logits of the next: embeddings, causal blocks, a norm, a linear layer."""

    def __init__(self, vocabulary: int, tokens: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(vocabulary, width), nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True) for _ in range(depth)))
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(n, tokens)`` to logits ``(n, tokens, vocabulary)``."""
        logits: Tensor = self.linear(self.norm(self.blocks(self.embed(x) + self.places)))
        return logits


def mlp(examples: int = 1000, width: int = 64) -> Work:
    """64-64-64-10 on digits, after 300 steps of Adam."""
    torch.manual_seed(0)
    x, y = digits()["train"]
    x = x.flatten(1)
    model = build_mlp([x.shape[1]], 10, hidden=(width, width))
    return _trained(Work("MLP 64-64-64-10", model, x[:examples], y[:examples]), 300)


def resnet20(examples: int = 64) -> Work:
    """The published ResNet-20 on its own training images."""
    model, file = build_resnet20(), material() / "checkpoints/resnet20-12fca82f.th"
    load_into(model, read_weights(file), file)
    return Work("ResNet-20", model.eval(), *cifar(examples))


def random_resnet20(examples: int = 16) -> Work:
    """A ResNet-20 as it is initialised, on noise: needs nothing, and costs the same."""
    torch.manual_seed(0)
    x, y = torch.randn(examples, 3, 32, 32), torch.arange(examples) % 10
    return Work("ResNet-20 on noise", build_resnet20().eval(), x, y)


def vit(examples: int = 64, width: int = 48) -> Work:
    """A vision transformer with patches of 4 x 4 pixels, after 100 steps of Adam."""
    torch.manual_seed(0)
    return _trained(Work("small ViT", build_vit([3, 32, 32], 10, width=width), *cifar(examples)), 100)


def transformer(examples: int = 8, tokens: int = 32, width: int = 96, depth: int = 12) -> Work:
    """Twelve causal layers with random weights, on random tokens of a vocabulary of 256."""
    torch.manual_seed(0)
    model = LanguageModel(256, tokens, width, depth, 4).eval()
    text = torch.randint(0, 256, (examples, tokens + 1))
    return Work(f"{depth}-layer transformer", model, text[:, :-1].contiguous(), text[:, 1:].contiguous())


ALL: dict[str, Callable[[], Work]] = {
    "mlp": mlp,
    "resnet20": resnet20,
    "vit": vit,
    "transformer": transformer,
}

SHORT: dict[str, Callable[[], Work]] = {
    "mlp": partial(mlp, 500),
    "resnet20": random_resnet20,
    "transformer": partial(transformer, 4, 16, 32),
}
"""What CI measures: seconds, and nothing that is not in the repository."""


def chosen(short: bool, only: Sequence[str] | None = None) -> dict[str, Work]:
    """The networks to measure on, by name.

    Raises:
        SystemExit: If one is unknown.
    """
    known = SHORT if short else ALL
    if unknown := sorted(set(only or ()) - set(known)):
        raise SystemExit(f"unknown network {', '.join(unknown)}; there is: {', '.join(known)}")
    return {name: known[name]() for name in only or known}


def multiplications(work: Work) -> tuple[float, float]:
    """Multiplications of a forward pass in linear and convolution layers: those of the first layer, and the others'.

    The first is the one whose input needs no gradient.
    """
    first = others = 0.0

    def count(layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        nonlocal first, others
        each = output.numel() * layer.weight[0].numel()
        first, others = (first, others + each) if given[0].requires_grad else (first + each, others)

    layers = [m for m in work.model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    work.model(work.inputs)
    for hook in hooks:
        hook.remove()
    return first, others


def passes(model: nn.Module, call: Callable[[], Any]) -> tuple[int, int]:
    """Forward and backward passes of the network during a call: exact where the clock is not."""
    seen = [0, 0]

    def count(place: int) -> None:
        seen[place] += 1

    last = list(model.parameters())[-1]
    hooks = [model.register_forward_hook(lambda *_: count(0)), last.register_hook(lambda _: count(1))]
    call()
    for hook in hooks:
        hook.remove()
    return seen[0], seen[1]


def material() -> Path:
    """The folder with published checkpoints and real images.

    Raises:
        SystemExit: If LANDSCAPE_TEST_DATA does not name it.
    """
    folder = Path(os.environ.get("LANDSCAPE_TEST_DATA", ""))
    if not (folder / "cifar10-lossless-6102.npz").is_file():
        raise SystemExit("LANDSCAPE_TEST_DATA names no folder with checkpoints/ and cifar10-lossless-6102.npz")
    return folder


def cifar(examples: int) -> tuple[Tensor, Tensor]:
    """The first lossless training images, normalised as the published networks expect."""
    images = np.load(material() / "cifar10-lossless-6102.npz")
    x = torch.from_numpy(images["x_train"][:examples]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return (x - mean) / std, torch.from_numpy(images["y_train"][:examples].astype(np.int64))


def _trained(work: Work, steps: int) -> Work:
    optimizer = torch.optim.Adam(work.model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        work.criterion(work.model.train()(work.inputs), work.targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    work.model.eval()
    return work
