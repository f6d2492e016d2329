"""What a tensor is, and how a complex one is seen as real numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def as_real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, ``(..., 2)``, differentiably; a real one as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def continuous(tensor: Tensor) -> bool:
    """Whether a tensor holds floating or complex numbers, which have derivatives; not whole ones."""
    return tensor.is_floating_point() or tensor.is_complex()
