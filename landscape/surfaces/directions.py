"""Directions to look along: drawn once, stored, and shared by everything that is compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..problem import Problem


@dataclass(frozen=True)
class Direction:
    """A direction in weight space.

    Attributes:
        kind: ``filter``, ``layer``, ``gaussian`` or ``unit``.
        seed: The seed it was drawn with.
        axis: Its number; axes of one seed are independent draws.
        tensors: One tensor per parameter of the problem.
    """

    kind: str
    seed: int
    axis: int
    tensors: list[Tensor]

    @property
    def norm(self) -> float:
        """Euclidean length."""
        return float(torch.stack([t.double().square().sum() for t in self.tensors]).sum().sqrt())

    def cosine(self, other: Direction) -> float:
        """Cosine of the angle to another direction (0 if one of them is zero)."""
        dot = float(
            torch.stack(
                [(a.double() * b.double()).sum() for a, b in zip(self.tensors, other.tensors, strict=True)]
            ).sum()
        )
        size = self.norm * other.norm
        return dot / size if size else 0.0


def draw(problem: Problem, kind: str, seed: int, axis: int) -> Direction:
    """Draw a Gaussian direction and scale it to the network.

    Each parameter draws on the CPU from (seed, axis, its name), so devices agree and a subset of parameters
    gets the same numbers. Parameters of one dimension or less (biases, scales and shifts of normalisation
    layers) stay fixed: moving them changes the loss at the unit distance by orders of magnitude, and Li et al.
    (arXiv 1712.09913) keep them fixed in their published figures.

    Args:
        problem: The network to scale to.
        kind: ``filter``: each filter to the norm of the network's filter (Li et al.); ``layer``: each tensor
            to the norm of its tensor; ``gaussian``: the whole to the norm of the moved weights; ``unit``: to 1.
        seed: Seed.
        axis: Number of the axis.

    Returns:
        The direction, in the problem's dtype and on its device.
    """
    transposed = _transposed_weights(problem.model)
    drawn = []
    for name, weight in zip(problem.space.names, problem.space.tensors, strict=True):
        number = int.from_bytes(hashlib.sha256(f"{seed}/{axis}/{name}".encode()).digest()[:8], "little") % 2**63
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        if weight.ndim <= 1:
            noise.zero_()
        elif kind == "filter":
            noise = _per_filter(noise, weight.detach().double().cpu(), transposed.get(name, 0))
        elif kind == "layer":
            noise *= weight.detach().double().norm().cpu() / noise.norm()
        drawn.append(noise)
    if kind in ("gaussian", "unit"):
        length = torch.stack([t.square().sum() for t in drawn]).sum().sqrt()
        moved = [w.detach().double().square().sum().cpu() for w in problem.space.tensors if w.ndim > 1]
        target = torch.stack(moved).sum().sqrt() if kind == "gaussian" and moved else torch.tensor(1.0)
        drawn = [t * (target / length) if length > 0 else t for t in drawn]
    return Direction(kind, seed, axis, [t.to(problem.device, problem.dtype) for t in drawn])


def _transposed_weights(model: nn.Module) -> dict[str, int]:
    """Names of transposed convolutions' weights, with their number of groups."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            found[f"{name}.weight" if name else "weight"] = module.groups
    return found


def _per_filter(noise: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Scale each filter of ``noise`` to the norm of the filter in ``weight``.

    A filter is one index of dimension 0 (output channel, output feature, embedding row). A transposed
    convolution's weight is (in, out/groups, ...): there the filter of output channel (g, j) is
    ``weight[g·in/groups : (g+1)·in/groups, j]``.
    """
    if groups:
        shape = (groups, weight.shape[0] // groups, *weight.shape[1:])
        dims: Sequence[int] = [1, *range(3, weight.ndim + 1)]
        n, w = noise.view(shape), weight.view(shape)
        return (n * (_norm(w, dims) / (_norm(n, dims) + 1e-10))).view(weight.shape)
    dims = list(range(1, weight.ndim))
    return noise * (_norm(weight, dims) / (_norm(noise, dims) + 1e-10))


def _norm(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    return tensor.square().sum(list(dims), keepdim=True).sqrt()
