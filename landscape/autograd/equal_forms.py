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

Torch has most of them in several places with different arguments: ``F.batch_norm`` takes the statistics before
weight and bias, ``torch.batch_norm`` after them. `FORMS` finds a form by the function itself, never by its name,
which somebody else's function may share. Each takes that function's own arguments, does what it does (also in
place), and returns its value, or ``NotImplemented`` where it knows no equal form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.errors import NumericalError
from .convolution import Convolution, scaled

# Arguments have torch's names, since callers may use them.


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    value = F.relu6(input + 3) / 6
    return input.copy_(value) if inplace else value


def _hardsigmoid_(input: Tensor) -> Tensor:
    return _hardsigmoid(input, inplace=True)


def _embedding(
    input: Tensor,
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
    return F.embedding(input, weight, padding_idx) if sparse or scale_grad_by_freq else NotImplemented


def _plain_embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    padding = None if padding_idx < 0 else padding_idx
    return _embedding(indices, weight, padding, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)


def _embedding_bag(
    input: Tensor,
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
    index = input
    if max_norm is not None or index.is_floating_point():  # an old order of the arguments
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


def _plain_embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    padding = None if padding_idx is None else padding_idx % len(weight)
    named = ("sum", "mean", "max")[mode]
    bags = _embedding_bag(
        indices,
        weight,
        offsets,
        mode=named,
        per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset,
        padding_idx=padding,
    )
    if bags is NotImplemented:
        return NotImplemented
    with torch.no_grad():  # where the bags begin, how large they are and where the largest are: no derivatives
        rest = (scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding_idx)
        return bags, *torch.embedding_bag(weight, indices, offsets, *rest)[1:]


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    of: Convolution | None = None,
) -> Any:
    """As ``batch_norm``; ``of`` is the convolution that ``input`` comes from, if it is known."""
    if training or running_mean is None or running_var is None:
        return NotImplemented
    size = torch.rsqrt(running_var + eps)
    scale = size if weight is None else weight * size
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    return scaled(input, scale, shift) if of is None else of.scaled(scale, shift)


def _plain_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
    of: Convolution | None = None,
) -> Any:
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps, of)


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


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    return _lengths(x1[..., :, None, :] - x2[..., None, :, :], p)


def _pdist(input: Tensor, p: float = 2.0) -> Tensor:
    i, j = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return _lengths(input[i] - input[j], p)


def _logcumsumexp(input: Tensor, dim: int | str) -> Any:
    if isinstance(dim, str) or not input.ndim:
        return NotImplemented
    last = input.movedim(dim, -1)
    later = torch.ones(last.shape[-1], last.shape[-1], dtype=torch.bool, device=input.device).triu(1)
    return last.unsqueeze(-2).masked_fill(later, -math.inf).logsumexp(-1).movedim(-1, dim)


def _multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    x = input
    if x.ndim != 2 or size_average is not None or reduce is not None:
        return NotImplemented
    right = x.gather(1, target[:, None])
    excess = (margin - right + x).clamp(min=0) ** p
    excess = excess if weight is None else excess * weight[target][:, None]
    others = torch.ones_like(x).scatter(1, target[:, None], 0)
    return _reduced((excess * others).sum(1) / x.shape[1], reduction)


def _plain_multi_margin_loss(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None, reduction: int = 1
) -> Any:
    return _multi_margin_loss(input, target, p, margin, weight, reduction=_REDUCTIONS[reduction])


def _multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    x = input
    if x.ndim != 2 or size_average is not None or reduce is not None:
        return NotImplemented
    said = (target >= 0).cumprod(1)  # labels end at the first -1
    labels = target.clamp(min=0)
    other = 1 - torch.zeros_like(target).scatter_reduce(1, labels, said, "amax")
    excess = (1 - x.gather(1, labels).unsqueeze(2) + x.unsqueeze(1)).clamp(min=0)
    return _reduced((excess * said.unsqueeze(2) * other.unsqueeze(1)).sum((1, 2)) / x.shape[1], reduction)


def _plain_multilabel_margin_loss(input: Tensor, target: Tensor, reduction: int = 1) -> Any:
    return _multilabel_margin_loss(input, target, reduction=_REDUCTIONS[reduction])


_REDUCTIONS = ("none", "mean", "sum")


def _reduced(values: Tensor, reduction: str) -> Tensor:
    return values if reduction == "none" else values.sum() if reduction == "sum" else values.mean()


@dataclass(frozen=True)
class Form:
    """An equal form.

    Attributes:
        name: Of the operation, for the record.
        function: Takes what the replaced function takes.
        normalises: Whether it also takes ``of``, the convolution that its input comes from.
    """

    name: str
    function: Callable[..., Any]
    normalises: bool = False

    def __call__(self, /, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        """The value, or ``NotImplemented``; also where it would be written into a given tensor."""
        if out is not None:
            return NotImplemented
        if "self" in kwargs:  # what ``torch.ops`` calls the input
            kwargs["input"] = kwargs.pop("self")
        return self.function(*args, **kwargs)


def _forms() -> dict[Any, Form]:
    nn, aten, tensor = torch._C._nn, torch.ops.aten, torch.Tensor
    functions: Any = torch._VF  # the bare functions behind torch's own wrappers
    batch_norm = Form("batch_norm", _plain_batch_norm, normalises=True)
    found = {
        F.batch_norm: Form("batch_norm", _batch_norm, normalises=True),
        torch.batch_norm: batch_norm,
        F.hardsigmoid: Form("hardsigmoid", _hardsigmoid),
        nn.hardsigmoid: Form("hardsigmoid", _hardsigmoid),
        nn.hardsigmoid_: Form("hardsigmoid", _hardsigmoid_),
        F.embedding: Form("embedding", _embedding),
        torch.embedding: Form("embedding", _plain_embedding),
        F.embedding_bag: Form("embedding_bag", _embedding_bag),
        torch.embedding_bag: Form("embedding_bag", _plain_embedding_bag),
        torch.cdist: Form("cdist", _cdist),
        functions.cdist: Form("cdist", _cdist),
        torch.pdist: Form("pdist", _pdist),
        torch.logcumsumexp: Form("logcumsumexp", _logcumsumexp),
        tensor.logcumsumexp: Form("logcumsumexp", _logcumsumexp),
        torch._weight_norm: Form("weight_norm", _weight_norm),
        F.multi_margin_loss: Form("multi_margin_loss", _multi_margin_loss),
        nn.multi_margin_loss: Form("multi_margin_loss", _plain_multi_margin_loss),
        F.multilabel_margin_loss: Form("multilabel_margin_loss", _multilabel_margin_loss),
        nn.multilabel_margin_loss: Form("multilabel_margin_loss", _plain_multilabel_margin_loss),
    }
    packets = {
        aten.batch_norm: batch_norm,
        aten.hardsigmoid: found[nn.hardsigmoid],
        aten.hardsigmoid_: found[nn.hardsigmoid_],
        aten.embedding: found[torch.embedding],
        aten.embedding_bag: found[torch.embedding_bag],
        aten.cdist: found[torch.cdist],
        aten.pdist: found[torch.pdist],
        aten.logcumsumexp: found[torch.logcumsumexp],
        aten._weight_norm: found[torch._weight_norm],
        aten.multi_margin_loss: found[nn.multi_margin_loss],
        aten.multilabel_margin_loss: found[nn.multilabel_margin_loss],
    }
    return {**found, **packets, **{packet.default: form for packet, form in packets.items()}}


FORMS: Mapping[Any, Form] = _forms()
