"""The ascent step shared by sharpness-aware optimizers and by sharpness measures.

For a ball of radius rho in the p-norm the step that maximises the linearised loss is (arXiv 2010.01412, Eq. 2)

    e = rho · sign(g) |g|^(q-1) / (‖g‖_q^q)^(1/p),   1/p + 1/q = 1,

so p = 2 gives rho·g/‖g‖₂, p = inf gives rho·sign(g), and p = 1 puts rho on the entry with the largest |g|.
In an adaptive form the ball is measured in units of T (arXiv 2102.11600): e = T ⊙ (step for T ⊙ g).

A complex weight is two real ones: norms, signs and scalings are those of its real and its imaginary part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..base.errors import UsageError

EPSILON = 1e-12


def real_view(t: Tensor) -> Tensor:
    """A tensor as real numbers, of the same storage: a complex one of shape ``(...)`` becomes ``(..., 2)``."""
    return torch.view_as_real(t) if t.is_complex() else t


def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """L2 norm of all tensors as one real vector, shape ``()``, computed in float32 or wider.

    In float16 the squares of moderate gradients overflow and SAM would silently become SGD.
    """
    wide = [_wide(t) for t in tensors]
    device = wide[0].device
    norm: Tensor = torch.linalg.vector_norm(torch.stack([n.to(device) for n in torch._foreach_norm(wide)]))
    return everywhere(norm)


def everywhere(number: Tensor) -> Tensor:
    """A number of shape ``()`` as a plain tensor; ``float`` of a DTensor is that of one process's part alone."""
    found: Tensor = number.full_tensor() if hasattr(number, "full_tensor") else number
    return found


def ascent_steps(
    gradient: Sequence[Tensor],
    rho: Sequence[float],
    *,
    p: str = "2",
    scaling: Callable[[int], Tensor | None] | None = None,
    epsilon: float = EPSILON,
) -> Iterator[Tensor]:
    """The step along ``gradient``, one tensor at a time, so that it never exists as a whole.

    Args:
        gradient: One tensor per parameter.
        rho: Radius for each of them; the norm is one over all.
        p: Norm of the ball: ``"2"``, ``"inf"`` or ``"1"``.
        scaling: T of the i-th parameter, of its shape, or that of its real view; None (also as a value) stands for 1.
        epsilon: Added to the norm of p = 2, so that a zero gradient gives a zero step.

    Yields:
        One tensor per parameter, new storage; zero where the gradient is zero, never NaN.

    Raises:
        UsageError: If ``p`` is another norm.
    """
    if p not in ("1", "2", "inf"):
        raise UsageError(f"no ball of norm p={p!r}", "p", 'give "1", "2" or "inf"')
    steps = _real_steps([real_view(g) for g in gradient], rho, p, scaling, epsilon)
    return (torch.view_as_complex(e) if g.is_complex() else e for g, e in zip(gradient, steps, strict=True))


def _real_steps(
    gradient: Sequence[Tensor],
    rho: Sequence[float],
    p: str,
    scaling: Callable[[int], Tensor | None] | None,
    epsilon: float,
) -> Iterator[Tensor]:
    def scaled(i: int, x: Tensor) -> Tensor:
        t = scaling(i) if scaling is not None else None
        return x if t is None else x * t

    if p == "2":
        norm = norm_one_by_one(scaled(i, g) for i, g in enumerate(gradient))
        for i, g in enumerate(gradient):
            yield scaled(i, scaled(i, g)) * (rho[i] / (norm + epsilon)).to(g.device, g.dtype)
    elif p == "inf":
        for i, g in enumerate(gradient):
            yield scaled(i, g.sign() * rho[i])
    else:
        if any(hasattr(g, "full_tensor") for g in gradient):
            raise UsageError("the largest entry of a sharded gradient is in one process", "p = 1", 'use "2" or "inf"')
        sizes = (scaled(i, g).abs().max() if g.numel() else g.new_zeros(()) for i, g in enumerate(gradient))
        largest = torch.stack([size.to(gradient[0].device) for size in sizes])
        where = int(largest.argmax())
        for i, g in enumerate(gradient):
            step = torch.zeros_like(g)
            if i == where:
                place = int(scaled(i, g).abs().argmax())
                at = torch.unravel_index(torch.tensor(place), g.shape)  # strides may be channels_last
                step[at] = g[at].sign() * rho[i]
            yield scaled(i, step)


def ascent_step(
    gradient: Sequence[Tensor], rho: float, *, p: str = "2", weights: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """The step of radius ``rho`` along ``gradient``; zero where the gradient is zero, never NaN.

    Args:
        gradient: One tensor per parameter.
        rho: Radius; 0 gives a zero step.
        p: Norm of the ball: ``"2"``, ``"inf"`` or ``"1"``.
        weights: The weights, for the elementwise adaptive form (T = |w|); None for the plain one.

    Returns:
        One tensor per parameter, new storage.
    """
    scaling = None if weights is None else lambda i: real_view(weights[i]).abs()
    return list(ascent_steps(gradient, [rho] * len(gradient), p=p, scaling=scaling))


def norm_one_by_one(tensors: Iterable[Tensor]) -> Tensor:
    """`global_norm` of tensors that are made one at a time, to save memory."""
    norms = [torch.linalg.vector_norm(_wide(t)) for t in tensors]
    norm: Tensor = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
    return everywhere(norm)


def _wide(t: Tensor) -> Tensor:
    real = real_view(t)
    return real if real.dtype in (torch.float32, torch.float64) else real.float()
