"""Lists of tensors as one real vector."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics.ascent import everywhere, real_view


def inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner product over all tensors as real vectors, shape ``()``, summed in float32 or wider."""
    parts = []
    for x, y in zip(map(real_view, a), map(real_view, b), strict=True):
        wide = torch.promote_types(x.dtype, torch.float32)
        if hasattr(x, "full_tensor"):  # spread over processes: not flattened where its blocks are uneven
            parts.append(everywhere((x.to(wide) * y.to(wide)).sum()))
            continue
        parts.append(torch.dot(x.reshape(-1).to(wide), y.reshape(-1).to(wide)))
    return torch.stack([p.to(parts[0].device) for p in parts]).sum()
