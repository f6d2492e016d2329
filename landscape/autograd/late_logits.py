"""Logits that are not computed before something asks for them, so that a cross-entropy can take them by chunks.

`deferred` is a mode around a forward pass: a linear map with very many outputs returns `Logits`, a tensor without
numbers. Reshaped, sliced or transposed it stays so, ``F.cross_entropy`` takes it by chunks (`chunked_cross_entropy`),
and whatever else is done with it is done with the real logits, as if this file did not exist. So nothing has to be
known of the model, its head or where it makes its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ..base.errors import NumericalError
from .chunked_cross_entropy import IGNORED, ChunkedCrossEntropy, Counted, scale

NAME = "cross_entropy in chunks"


class Logits(Tensor):
    """What a linear map with very many outputs gives, before it is computed.

    Attributes:
        hidden: ``(*places, d)``.
        head: Weight ``(V, d)`` and bias ``(V,)`` or None.
        at_once: Positions at once.
        classes: The dimension of the V classes: the last, or 1.
        used: Receives `NAME` where a loss took it by chunks.
        only_chunks: Refuse to be computed as a whole, and leave the slope's terms out of second derivatives.
    """

    hidden: Tensor
    head: tuple[Tensor, Tensor | None]
    at_once: int
    classes: int
    used: set[str]
    only_chunks: bool
    _whole: Tensor | None

    @staticmethod
    def __new__(
        cls: Any,
        hidden: Tensor,
        head: tuple[Tensor, Tensor | None],
        at_once: int,
        used: set[str],
        classes: int | None = None,
        only_chunks: bool = False,
    ) -> Logits:
        """The tensor whose numbers are ``hidden @ W.T + b``, with the classes at dimension ``classes``."""
        classes = hidden.ndim - 1 if classes is None else classes
        shape = list(hidden.shape[:-1])
        shape.insert(classes, len(head[0]))
        moves = any(t is not None and t.requires_grad for t in (hidden, *head))
        made: Logits = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=hidden.dtype, device=hidden.device, requires_grad=moves and torch.is_grad_enabled()
        )
        made.hidden, made.head, made.at_once, made.classes = hidden, head, at_once, classes
        made.used, made.only_chunks, made._whole = used, only_chunks, None
        return made

    def whole(self) -> Tensor:
        """The logits themselves; computed once."""
        if self.only_chunks:
            raise NumericalError("the loss looks at all logits at once", "chunks of positions", "drop `logit_chunk=`")
        if self._whole is None:
            found = F.linear(self.hidden, *self.head)
            self._whole = found if self.classes == found.ndim - 1 else found.movedim(-1, self.classes)
        return self._whole

    def of(self, hidden: Tensor, classes: int | None = None) -> Logits:
        """Those of other hidden states."""
        return Logits(hidden, self.head, self.at_once, self.used, classes, self.only_chunks)

    @property
    def parts(self) -> list[Tensor]:
        """What it is made of and depends on the weights: hidden states, weight, bias."""
        return [t for t in (self.hidden, *self.head) if t is not None and t.requires_grad]

    def with_parts(self, values: Sequence[Tensor]) -> Logits:
        """The same of other values of `parts`, for a Gauss-Newton matrix."""
        left = iter(values)
        hidden, weight, bias = (
            next(left) if t is not None and t.requires_grad else t for t in (self.hidden, *self.head)
        )
        assert hidden is not None
        assert weight is not None
        return Logits(hidden, (weight, bias), self.at_once, self.used, self.classes, only_chunks=True)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Stay uncomputed where that is known to be the same; else compute."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _FACTS:
                return func(*args, **kwargs)
            known = _KNOWN.get(func)
            if known is not None and isinstance(args[0] if args else None, Logits):
                found = known(*args, **kwargs)
                if found is not NotImplemented:
                    return found
            args, kwargs = tree_map_only(Logits, Logits.whole, (args, dict(kwargs)))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """What comes past `__torch_function__` is computed, too."""
        args, kwargs = tree_map_only(Logits, Logits.whole, (args, dict(kwargs or {})))
        return func(*args, **kwargs)


def _cross_entropy(
    input: Logits,
    target: Any,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = IGNORED,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    plain = size_average is None and reduce is None and not label_smoothing and reduction in ("none", "mean", "sum")
    hard = type(target) is Tensor and not target.is_floating_point() and input.classes == min(1, input.ndim - 1)
    if not plain or not hard or target.shape != input.hidden.shape[:-1]:
        return NotImplemented
    flat = target.reshape(-1)
    counted = flat[flat != ignore_index]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < len(input.head[0]):
        return NotImplemented  # torch says what is wrong with it
    input.used.add(NAME)
    hidden = input.hidden.reshape(-1, input.hidden.shape[-1])
    apply: Any = ChunkedCrossEntropy.apply
    losses = apply(hidden, *input.head, flat, weight, Counted(ignore_index, input.at_once, input.only_chunks))
    if reduction == "none":
        return losses.reshape(target.shape)
    total = losses.sum()
    return total / scale(flat, weight, ignore_index).to(total).sum() if reduction == "mean" else total


def _reshape(input: Logits, *shape: Any, **named: Any) -> Any:
    if named or input.classes != input.ndim - 1:
        return NotImplemented
    sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
    if not sizes or not all(isinstance(s, int) for s in sizes) or sizes[-1] not in (-1, input.shape[-1]):
        return NotImplemented
    if sizes[-1] == -1 and torch.Size(sizes[:-1]).numel() != input.hidden.shape[:-1].numel():
        return NotImplemented
    return input.of(input.hidden.reshape(*sizes[:-1], input.hidden.shape[-1]))


def _flatten(input: Logits, start_dim: int = 0, end_dim: int = -1) -> Any:
    last = end_dim % input.ndim
    if input.classes != input.ndim - 1 or last >= input.ndim - 1:
        return NotImplemented
    return input.of(input.hidden.flatten(start_dim, last))


def _transpose(input: Logits, one: int, other: int) -> Any:
    """Between places and classes, as losses of torch want classes second."""
    if input.ndim != 3 or {one % 3, other % 3} != {1, 2}:
        return NotImplemented
    return input.of(input.hidden, 3 - input.classes)


def _select(input: Logits, index: Any) -> Any:
    """Places, never classes."""
    if input.classes != input.ndim - 1:
        return NotImplemented
    words = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [w for w in words if not isinstance(w, Tensor)]:
        at = next(i for i, w in enumerate(words) if w is Ellipsis)
        left = input.ndim - (len(words) - 1)
        if left < 0 or any(isinstance(w, Tensor) or w is None for w in words):
            return NotImplemented
        words[at : at + 1] = [slice(None)] * left
    if len(words) == input.ndim and words[-1] == slice(None):
        words.pop()
    if not all(isinstance(w, (int, slice)) and not isinstance(w, bool) for w in words) or len(words) >= input.ndim:
        return NotImplemented
    return input.of(input.hidden[tuple(words)])


def _same(input: Logits, *_: Any, **__: Any) -> Any:
    return input


def _to(input: Logits, *wanted: Any, **named: Any) -> Any:
    """The type or the device that it has."""
    asked = [*wanted, *(named[k] for k in ("dtype", "device") if k in named)]
    known = not set(named) - {"dtype", "device", "copy", "non_blocking"} and not named.get("copy")
    return input if known and all(a in (input.dtype, input.device) for a in asked) else NotImplemented


def _float(input: Logits) -> Any:
    return input if input.dtype == torch.float32 else NotImplemented


def _detach(input: Logits) -> Any:
    weight, bias = input.head
    own = (weight.detach(), None if bias is None else bias.detach())
    return Logits(input.hidden.detach(), own, input.at_once, input.used, input.classes, input.only_chunks)


_KNOWN: dict[Any, Callable[..., Any]] = {
    F.cross_entropy: _cross_entropy,
    Tensor.view: _reshape,
    Tensor.reshape: _reshape,
    torch.reshape: _reshape,
    Tensor.flatten: _flatten,
    torch.flatten: _flatten,
    Tensor.transpose: _transpose,
    torch.transpose: _transpose,
    Tensor.__getitem__: _select,
    Tensor.contiguous: _same,
    Tensor.to: _to,
    Tensor.float: _float,
    Tensor.detach: _detach,
}
_PROPERTIES = (
    "shape dtype device ndim requires_grad is_leaf layout is_sparse is_quantized is_cuda is_cpu is_meta is_nested "
    "itemsize nbytes _version"
)
_METHODS = (
    "dim size numel nelement ndimension __len__ element_size get_device is_floating_point is_complex is_inference"
)
_FACTS = {
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES.split()),
    *(getattr(Tensor, name) for name in _METHODS.split()),
    torch.is_floating_point,
    torch.is_complex,
    torch.numel,
}

# -- where they are made ---------------------------------------------------------------------------------------------


class _Deferring(TorchFunctionMode):
    def __init__(self, choose: Callable[[int, int], int | None], used: set[str]) -> None:
        super().__init__()
        self.choose, self.used = choose, used

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear or kwargs or len(args) < 2:
            return func(*args, **kwargs)
        hidden, weight, bias = (*args, None)[:3]
        plain = type(hidden) is Tensor and hidden.ndim > 1 and isinstance(weight, Tensor) and weight.ndim == 2
        if not plain or not hidden.is_floating_point() or hidden.dtype != weight.dtype or hidden.numel() == 0:
            return func(*args)
        positions = hidden.shape[:-1].numel()
        widens = len(weight) > weight.shape[1]  # as the head of a language model
        chunk = self.choose(positions, len(weight) * hidden.element_size()) if widens else None
        if chunk is None or chunk >= positions:
            return func(*args)
        return Logits(hidden, (weight, bias), chunk, self.used)


@contextmanager
def deferred(choose: Callable[[int, int], int | None], used: set[str]) -> Iterator[None]:
    """Let linear maps inside that have more outputs than inputs give `Logits`, where asked.

    Args:
        choose: From a number of positions and the bytes of the outputs of one to how many positions are computed at
            once; None: all of them, as ever.
        used: Receives `NAME` where it happened.
    """
    with _Deferring(choose, used):
        yield
