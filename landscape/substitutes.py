"""Operations whose second derivative torch lacks or gets wrong, computed in an equal form that has a right one.

`twice_differentiable` is wrapped around a forward pass of a `Problem`'s own copy. It answers calls of

- ``torch._weight_norm`` (``weight_norm``, old and new): its fused double backward is wrong, silently, by up to
  60 %; written out as v·g/‖v‖ it is right, and bit-equal forward;
- ``embedding_bag``, ``hardsigmoid``, ``cdist``, ``pdist``, ``multi_margin_loss``: no second derivative;
- ``embedding(sparse=True)``: no dense gradient to differentiate again;
- recurrent layers on CUDA: cuDNN's have no second derivative, torch's own have;
- ``batch_norm`` with frozen statistics: right, but its double backward walks the activations ten times, which made
  a quarter of a ResNet's product; as the affine map that it is, fewer.

Fused attention is avoided by the plain kernel, which only the forward pass chooses. What was replaced is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .errors import NumericalError


@contextmanager
def twice_differentiable(used: set[str]) -> Iterator[None]:
    """Run forward passes inside with second derivatives that exist and are right.

    Args:
        used: Receives the names of the operations that were replaced.
    """
    with sdpa_kernel(SDPBackend.MATH), _Substitute(used):
        yield


class _Substitute(TorchFunctionMode):
    def __init__(self, used: set[str]) -> None:
        super().__init__()
        self.used = used

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _RECURRENT:
            with torch.backends.cudnn.flags(enabled=False):
                return func(*args, **kwargs)
        substitute = _SUBSTITUTES.get(name)
        found = substitute(*args, **kwargs) if substitute else NotImplemented
        if found is NotImplemented:
            return func(*args, **kwargs)
        self.used.add(name.lstrip("_"))
        return found


def settle_embeddings(model: nn.Module) -> list[str]:
    """Renormalise all rows of embeddings with ``max_norm`` once, in place, and make their forward leave them alone.

    Otherwise every forward pass, also without gradients, changes the weights it is asked about. Rows that no
    example uses change too; no loss depends on them. Sparse gradients are made dense.

    Returns:
        The names of the modules that were renormalised.
    """
    settled = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            continue
        module.sparse = False
        if module.max_norm is not None:
            with torch.no_grad():
                rows = torch.arange(module.num_embeddings, device=module.weight.device)
                torch.embedding_renorm_(module.weight.detach(), rows, module.max_norm, module.norm_type)
            module.max_norm = None
            settled.append(name)
    return settled


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
    if max_norm is not None or (mode == "max" and (index.ndim == 1 or padding_idx is not None)):
        return NotImplemented  # torch refuses it by name
    rows = F.embedding(index, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    counted = torch.ones_like(index) if padding_idx is None else (index != padding_idx).to(index.dtype)
    if index.ndim == 2:
        if mode == "max":
            return rows.amax(1)
        total, count = (rows * counted[..., None]).sum(1), counted.sum(1)
    else:
        if offsets is None:
            return NotImplemented
        starts = offsets[:-1] if include_last_offset else offsets
        bag = torch.searchsorted(starts, torch.arange(len(index), device=index.device), right=True) - 1
        total = rows.new_zeros(len(starts), rows.shape[1]).index_add(0, bag, rows * counted[:, None])
        count = counted.new_zeros(len(starts)).index_add(0, bag, counted)
    return total if mode == "sum" else total / count.clamp(min=1)[:, None]


def _batch_norm(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or mean is None or variance is None:
        return NotImplemented
    scale = torch.rsqrt(variance + eps) if weight is None else weight * torch.rsqrt(variance + eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (1, -1, *[1] * (x.ndim - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape))


def _distances(squares: Tensor) -> Tensor:
    apart = squares > 0  # at distance zero the slope is 0, as torch has it, and not 0/0
    return torch.where(apart, torch.where(apart, squares, 1).sqrt(), 0)


def _cdist(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: str = "") -> Any:
    return _distances((a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)) if p == 2 else NotImplemented


def _pdist(a: Tensor, p: float = 2.0) -> Any:
    i, j = torch.triu_indices(len(a), len(a), 1, device=a.device)
    return _distances((a[i] - a[j]).square().sum(-1)) if p == 2 else NotImplemented


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
    values = (excess * others).sum(1) / x.shape[1]
    return values if reduction == "none" else values.sum() if reduction == "sum" else values.mean()


_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_SUBSTITUTES: Mapping[str, Callable[..., Any]] = {
    "_weight_norm": _weight_norm,
    "batch_norm": _batch_norm,
    "hardsigmoid": _hardsigmoid,
    "embedding": _embedding,
    "embedding_bag": _embedding_bag,
    "cdist": _cdist,
    "pdist": _pdist,
    "multi_margin_loss": _multi_margin_loss,
}
