"""The plain tensors behind one that is laid out otherwise: sparse, nested, quantized."""

from __future__ import annotations

import torch
from torch import Tensor

_BY_ROW = (torch.sparse_csr, torch.sparse_bsr)
COMPRESSED = (*_BY_ROW, torch.sparse_csc, torch.sparse_bsc)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is one stretch of memory with strides."""
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """Plain tensors that hold the numbers of a tensor, and where they stand; a plain one is itself."""
    tensor = tensor.detach()
    if is_plain(tensor):
        return [tensor]
    if tensor.is_nested:
        return list(tensor.unbind())
    if tensor.is_quantized:
        return [tensor.dequantize()]
    if tensor.layout in COMPRESSED:
        by_row = tensor.layout in _BY_ROW
        places = (tensor.crow_indices, tensor.col_indices) if by_row else (tensor.ccol_indices, tensor.row_indices)
        return [*(place() for place in places), tensor.values()]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    return [tensor.to_dense()]


def held_bytes(tensor: Tensor) -> int:
    """Memory of a tensor, however it is laid out."""
    return tensor.nbytes if is_plain(tensor) else sum(part.nbytes for part in plain_parts(tensor))
