"""Random directions, scaled to the network: drawn from (seed, axis, name), so the same on every device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...base.errors import UsageError
from ...problem.problem import Problem
from ...runtime.devices import wide
from ...sharding.parts import Part, cut
from .direction import Direction, centre_of


def draw(problem: Problem, kind: str, seed: int, axis: int, one_dimensional: str = "zero") -> Direction:
    """Draw a Gaussian direction and scale it to the network.

    Each parameter draws on the CPU from (seed, axis, its name), so devices agree and a subset of parameters
    gets the same numbers. Parameters of one dimension or less (biases, scales and shifts of normalisation
    layers) stay fixed by default: moving them changes the loss at the unit distance by orders of magnitude, and
    Li et al. (arXiv 1712.09913) keep them fixed in their published figures.

    Args:
        problem: The network to scale to.
        kind: ``filter``: each filter to the norm of the network's filter (Li et al.); ``layer``: each tensor
            to the norm of its tensor; ``model``: the whole to the norm of the moved weights; ``unit``: to 1;
            ``gaussian``: as drawn, entries of variance 1.
        seed: Seed.
        axis: Number of the axis.
        one_dimensional: What parameters of one dimension do: ``zero``: stay; ``tensor``: are scaled to the norm
            of their tensor; ``element``: each entry is scaled by its own absolute value.

    Returns:
        The direction, in the problem's dtype and on its device.
    """
    transposed = _transposed_weights(problem.model)
    drawn: list[Tensor] = []
    for name, tensor, dimensions in _parameters(problem):
        weight = wide(tensor).cpu()
        noise = cut(_noise(tensor.shape, seed, axis, name), weight)
        if dimensions <= 1:
            noise = _of_one_dimension(noise, weight, one_dimensional)
        elif kind == "filter":
            noise = _per_filter(noise, weight, transposed.get(name, 0))
        elif kind == "layer":
            noise = noise * (weight.norm() / noise.norm())
        drawn.append(noise)
    if kind in ("model", "unit"):
        length = math.sqrt(sum(float(t.square().sum()) for t in drawn))
        moved = [float(wide(w).square().sum()) for w, d in _moved(problem, drawn) if d.any()]
        target = math.sqrt(sum(moved)) if kind == "model" else 1.0
        drawn = [t * (target / length) if length > 0 else t for t in drawn]
    found = [t.to(problem.device, problem.dtype) for t in drawn]
    return Direction(kind, found, seed, axis, {"one_dimensional": one_dimensional}).require_finite()


def _parameters(problem: Problem) -> Iterator[tuple[str, Tensor, int]]:
    """Name, real weights and number of dimensions of each parameter; a complex filter is all its real numbers."""
    return zip(problem.space.names, centre_of(problem), problem.space.dimensions, strict=True)


def _noise(shape: torch.Size, seed: int, axis: int, name: str) -> Tensor:
    number = int.from_bytes(hashlib.sha256(f"{seed}/{axis}/{name}".encode()).digest()[:8], "little") % 2**63
    return torch.randn(shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def _moved(problem: Problem, drawn: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(centre_of(problem), drawn, strict=True)


def _of_one_dimension(noise: Tensor, weight: Tensor, policy: str) -> Tensor:
    if policy == "tensor":
        scale: Tensor = weight.norm() / (noise.norm() + 1e-10)
        return noise * scale
    if policy == "element":
        return noise * weight.abs()
    return torch.zeros_like(noise)


def filter_norm_error(problem: Problem, direction: Direction) -> float:
    """Largest relative difference between a filter's norm in ``direction`` and in the network.

    Filters of norm 0 count as 1 if the direction moves them, else as 0.
    """
    transposed = _transposed_weights(problem.model)
    worst = 0.0
    for (name, weight, dimensions), moved in zip(_parameters(problem), direction.tensors, strict=True):
        if dimensions > 1:
            wanted, found = (_filter_norms(wide(t), transposed.get(name, 0)) for t in (weight, moved))
            gap = torch.where(wanted > 0, (found / wanted.clamp_min(1e-300) - 1).abs(), wide(found > 0))
            worst = max(worst, float(gap.max()))
    return worst


def expected_cosine(problem: Problem, kind: str) -> float | None:
    """Standard deviation of the cosine of two independent directions of a kind; None if unknown.

    sqrt(Σ ‖θ_b‖⁴ / n_b) / Σ ‖θ_b‖² over the blocks b (of n_b entries) that are scaled as one: filters, layers,
    or everything.
    """
    transposed = _transposed_weights(problem.model)
    blocks: list[tuple[Tensor, float]] = []
    for name, weight, dimensions in _parameters(problem):
        if dimensions > 1:
            norms = _filter_norms(wide(weight), transposed.get(name, 0)).reshape(-1)
            squares = norms.square() if kind == "filter" else norms.square().sum().reshape(1)
            blocks.append((squares, weight.numel() / len(squares)))
    if not blocks or kind not in ("filter", "layer", "model", "unit", "gaussian"):
        return None
    if kind in ("model", "unit", "gaussian"):
        return 1 / math.sqrt(sum(n * len(squares) for squares, n in blocks))
    total = sum(float(squares.sum()) for squares, _ in blocks)
    return math.sqrt(sum(float((squares.square() / n).sum()) for squares, n in blocks)) / total if total else None


def _transposed_weights(model: nn.Module) -> dict[str, int]:
    """Names of transposed convolutions' weights, with their number of groups."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            found[f"{name}.weight" if name else "weight"] = module.groups
    return found


def _per_filter(noise: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Scale each filter of ``noise`` to the norm of the filter in ``weight``."""
    scaled = _by_filter(noise, groups) * (_filter_norms(weight, groups) / (_filter_norms(noise, groups) + 1e-10))
    shaped: Tensor = scaled.view(weight.shape)
    return shaped


def _by_filter(tensor: Tensor, groups: int) -> Tensor:
    """A view in which all dimensions that one filter spans can be summed over.

    A filter is one index of dimension 0 (output channel, output feature, embedding row). A transposed
    convolution's weight is (in, out/groups, ...): there the filter of output channel (g, j) is
    ``weight[g·in/groups : (g+1)·in/groups, j]``.
    """
    if groups and isinstance(tensor, Part):
        what, fix = "filters of a transposed convolution do not lie in blocks", "use layer directions"
        raise UsageError(what, "a filter direction of a sharded model", fix)
    return tensor.view(groups, tensor.shape[0] // groups, *tensor.shape[1:]) if groups else tensor


def _filter_norms(tensor: Tensor, groups: int) -> Tensor:
    shaped = _by_filter(tensor.contiguous(), groups)
    dims = [1, *range(3, shaped.ndim)] if groups else list(range(1, shaped.ndim))
    norms: Tensor = shaped.square().sum(dims, keepdim=True).sqrt()
    return norms
