"""Operations whose second derivative torch lacks or gets wrong, in an equal form that has a right one.

- ``torch._weight_norm`` (``weight_norm``, old and new): its fused double backward is wrong, silently, by up to
  60 %; written out as v·g/‖v‖ it is right, and bit-equal forward;
- ``embedding_bag``, ``hardsigmoid``, ``cdist``, ``pdist``, ``multi_margin_loss``, ``multilabel_margin_loss``: no
  second derivative;
- ``logcumsumexp``: its derivative takes logarithms of the incoming gradient, and is no number where that is zero;
- ``embedding(sparse=True)``: no dense gradient to differentiate again;
- ``batch_norm`` with frozen statistics: right, but its double backward walks the activations ten times, which made
  a quarter of a ResNet's product; as the affine map that it is, fewer, and as part of the convolution before it
  (`convolution`) none.

Each takes the operation's own arguments and returns its value, or ``NotImplemented`` where it knows no equal form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .convolution import Convolution, scaled
from .errors import NumericalError


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    return F.relu6(x + 3) / 6


def _embedding(
    index: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if max_norm is not None:
        raise NumericalError(
            "a functional embedding with max_norm changes its weights in every forward pass",
            "curvature product",
            "renormalise the weights once and drop max_norm",
        )
    return F.embedding(index, weight, padding_idx) if sparse or scale_grad_by_freq else NotImplemented


def _embedding_bag(
    index: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    if max_norm is not None:
        return NotImplemented  # torch refuses it by name
    if index.ndim == 2:
        bags = len(index)
        bag = torch.arange(bags, device=index.device).repeat_interleave(index.shape[1])
    elif offsets is not None:
        starts = offsets[:-1] if include_last_offset else offsets
        bags = len(starts)
        bag = torch.searchsorted(starts, torch.arange(len(index), device=index.device), right=True) - 1
    else:
        return NotImplemented
    rows = F.embedding(index.reshape(-1), weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    if padding_idx is not None:
        counted = index.reshape(-1) != padding_idx
        rows, bag = rows[counted], bag[counted]
    empty = rows.new_zeros(bags, rows.shape[1])
    if mode == "max":
        return empty.scatter_reduce(0, bag[:, None].expand_as(rows), rows, "amax", include_self=False)
    total = empty.index_add(0, bag, rows)
    return total if mode == "sum" else total / torch.bincount(bag, minlength=bags).clamp(min=1)[:, None]


def frozen_batch_norm(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    of: Convolution | None = None,
) -> Any:
    """As ``batch_norm``; ``of`` is the convolution that ``x`` comes from, if it is known."""
    if training or mean is None or variance is None:
        return NotImplemented
    scale = torch.rsqrt(variance + eps) if weight is None else weight * torch.rsqrt(variance + eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    return scaled(x, scale, shift) if of is None else of.scaled(scale, shift)


def _lengths(difference: Tensor, p: float) -> Tensor:
    """p-norms over the last dimension; where there is no distance the slope is 0, as torch has it, and not 0/0."""
    size = difference.abs()
    if p == 0:
        return (size > 0).sum(-1).to(size.dtype)
    if p == 1:
        return size.sum(-1)
    if math.isinf(p):
        return size.amax(-1)
    if p == 2:
        total = difference.square().sum(-1)
    else:
        apart = size > 0
        total = torch.where(apart, torch.where(apart, size, 1) ** p, 0).sum(-1)
    apart = total > 0
    return torch.where(apart, torch.where(apart, total, 1) ** (1 / p), 0)


def _cdist(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: str = "") -> Tensor:
    return _lengths(a[..., :, None, :] - b[..., None, :, :], p)


def _pdist(a: Tensor, p: float = 2.0) -> Tensor:
    i, j = torch.triu_indices(len(a), len(a), 1, device=a.device)
    return _lengths(a[i] - a[j], p)


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    last = x.movedim(dim, -1)
    later = torch.ones(last.shape[-1], last.shape[-1], dtype=torch.bool, device=x.device).triu(1)
    return last.unsqueeze(-2).masked_fill(later, -math.inf).logsumexp(-1).movedim(-1, dim)


def _multi_margin_loss(
    x: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    if x.ndim != 2 or size_average is not None or reduce is not None:
        return NotImplemented
    right = x.gather(1, target[:, None])
    excess = (margin - right + x).clamp(min=0) ** p
    excess = excess if weight is None else excess * weight[target][:, None]
    others = torch.ones_like(x).scatter(1, target[:, None], 0)
    return _reduced((excess * others).sum(1) / x.shape[1], reduction)


def _multilabel_margin_loss(
    x: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    if x.ndim != 2 or size_average is not None or reduce is not None:
        return NotImplemented
    said = (target >= 0).cumprod(1)  # labels end at the first -1
    labels = target.clamp(min=0)
    other = 1 - torch.zeros_like(target).scatter_reduce(1, labels, said, "amax")
    excess = (1 - x.gather(1, labels).unsqueeze(2) + x.unsqueeze(1)).clamp(min=0)
    return _reduced((excess * said.unsqueeze(2) * other.unsqueeze(1)).sum((1, 2)) / x.shape[1], reduction)


def _reduced(values: Tensor, reduction: str) -> Tensor:
    return values if reduction == "none" else values.sum() if reduction == "sum" else values.mean()


EQUAL_FORMS: Mapping[str, Callable[..., Any]] = {
    "_weight_norm": _weight_norm,
    "batch_norm": frozen_batch_norm,
    "hardsigmoid": _hardsigmoid,
    "embedding": _embedding,
    "embedding_bag": _embedding_bag,
    "cdist": _cdist,
    "pdist": _pdist,
    "logcumsumexp": _logcumsumexp,
    "multi_margin_loss": _multi_margin_loss,
    "multilabel_margin_loss": _multilabel_margin_loss,
}
