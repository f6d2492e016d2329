"""The ascent step shared by sharpness-aware optimizers and by sharpness measures.

For a ball of radius rho in the p-norm the step that maximises the linearised loss is (arXiv 2010.01412, Eq. 2)

    e = rho · sign(g) |g|^(q-1) / (‖g‖_q^q)^(1/p),   1/p + 1/q = 1,

so p = 2 gives rho·g/‖g‖₂, p = inf gives rho·sign(g), and p = 1 puts rho on the entry with the largest |g|.
In the elementwise adaptive form the ball is measured in units of |w|: with t = |w|, e = t ⊙ (step for t ⊙ g).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-12


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of all tensors as one vector, shape ``()``, computed in float32 or wider.

    In float16 the squares of moderate gradients overflow and SAM would silently become SGD.
    """
    wide = [t if t.dtype in (torch.float32, torch.float64) else t.float() for t in tensors]
    device = wide[0].device
    norm: Tensor = torch.linalg.vector_norm(torch.stack([n.to(device) for n in torch._foreach_norm(wide)]))
    return norm


def ascent_step(
    gradient: Sequence[Tensor], rho: float, *, p: str = "2", weights: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """The step of radius ``rho`` along ``gradient``; zero where the gradient is zero, never NaN.

    Args:
        gradient: One tensor per parameter.
        rho: Radius; 0 gives a zero step.
        p: Norm of the ball: ``"2"``, ``"inf"`` or ``"1"``.
        weights: The weights, for the elementwise adaptive form; None for the plain one.

    Returns:
        One tensor per parameter, new storage.
    """
    g = list(gradient) if weights is None else [x * w.abs() for x, w in zip(gradient, weights, strict=True)]
    if p == "2":
        scale = rho / (global_norm(g) + EPSILON)
        step = [x * scale.to(x.device, x.dtype) for x in g]
    elif p == "inf":
        step = [x.sign() * rho for x in g]
    else:
        largest = [x.abs().max() for x in g]
        where = int(torch.stack(largest).argmax())
        step = [torch.zeros_like(x) for x in g]
        place = int(g[where].abs().argmax())
        at = torch.unravel_index(torch.tensor(place), g[where].shape)  # strides may be channels_last
        step[where][at] = g[where][at].sign() * rho
    return step if weights is None else [e * w.abs() for e, w in zip(step, weights, strict=True)]
