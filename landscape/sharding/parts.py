"""One parameter, or a direction's part for it, of which every process holds a block; all code sees it as whole.

A `Part` computes entry by entry where it lies. What is added up over some or all of its dimensions (norms, norms of
filters) is added up over processes and is a plain tensor, equal everywhere; a plain tensor beside it is cut to its
block. Anything else is refused. A DTensor would compute more, but ``float`` of its norm is quietly that of the block
alone (torch 2.13).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..runtime.distributed import reduce_everywhere_
from .pieces import Piece
from .rules import Rule, all_of, any_of, extreme_of, flat, rule_for


class Part(Tensor):
    """A tensor of a parameter's shape of which this process holds a block.

    Attributes:
        own: The block, a plain tensor.
        piece: Where it lies.
    """

    own: Tensor
    piece: Piece

    @staticmethod
    def __new__(cls, own: Tensor, piece: Piece) -> Part:
        """A tensor with ``own`` as this process's block."""
        if tuple(own.shape) != piece.local_shape:
            raise ValueError(f"a block of {tuple(own.shape)} where this process holds {piece.local_shape}")
        made: Part = torch.Tensor._make_wrapper_subclass(cls, piece.shape, dtype=own.dtype, device=own.device)
        made.own, made.piece = own, piece
        return made

    def __init__(self, own: Tensor, piece: Piece) -> None:
        """See `__new__`."""

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"<Part {tuple(self.shape)} {self.dtype}, {tuple(self.own.shape)} here>"

    def __deepcopy__(self, memo: Any) -> Part:
        return Part(self.own.clone(), self.piece)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():  # whose results would all become parts
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        each = func.name().startswith("aten::_foreach_")
        rule = _for_each if each else rule_for(func, _RULES, _entrywise, "parameters")
        return rule(func, args, kwargs or {})


class WholeTensors(Mapping[str, Tensor]):
    """Tensors by name, whole where they are asked for: of those that are spread one at a time, by all processes."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        found = self.tensors[name]
        return found.piece.whole(found.own) if isinstance(found, Part) else found

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """The block of a whole tensor that lies where ``like`` does; of a plain one all of it."""
    return Part(whole[like.piece.part].clone(), like.piece) if isinstance(like, Part) else whole


def block(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: of a plain one all of it."""
    return tensor.own if isinstance(tensor, Part) else tensor


# -- rules: what each operation does -------------------------------------------------------------------------------


def _unequal(what: str) -> UsageError:
    return UsageError(f"a parameter that is spread over processes beside {what}", "the sharded model", "report this")


def _own(value: Any, piece: Piece) -> Any:
    """What of an operand stands beside a block."""
    if isinstance(value, Part):
        if value.piece is not piece and (value.piece.part, value.piece.shape) != (piece.part, piece.shape):
            raise _unequal("one that is spread otherwise")
        return value.own
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.ndim > len(piece.shape):
        raise _unequal("one of more dimensions")
    cuts = piece.part[len(piece.shape) - value.ndim :]
    return value[tuple(slice(None) if n == 1 else c for n, c in zip(value.shape, cuts, strict=True))]


def _entrywise(func: Any, args: Any, kwargs: Any) -> Any:
    piece = next(v for v in flat([*args, *kwargs.values()]) if isinstance(v, Part)).piece
    own = [_own(a, piece) for a in args]
    found = func(*own, **{k: _own(v, piece) for k, v in kwargs.items()})
    if isinstance(args[0], Part) and found is own[0]:  # in place
        return args[0]
    return Part(found, piece)


def _for_each(func: Any, args: Any, kwargs: Any) -> Any:
    """Of lists of tensors, one after the other; sums and norms over them are asked for one by one."""
    if "norm" in func.name() or "max" in func.name():
        raise _unequal(f"the operation {func.name()}")
    pieces = [v.piece if isinstance(v, Part) else None for v in args[0]]
    if None in pieces:
        raise _unequal("plain ones that it is written into")

    def own(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [v if p is None else _own(v, p) for v, p in zip(value, pieces, strict=True)]
        return value

    found = func(*map(own, args), **kwargs)
    return None if found is None else [Part(f, p) for f, p in zip(found, pieces, strict=True) if p is not None]


def _like(func: Any, args: Any, kwargs: Any) -> Any:
    return Part(func(args[0].own, *args[1:], **kwargs), args[0].piece)


def _copy_(func: Any, args: Any, kwargs: Any) -> Any:
    if not isinstance(args[0], Part):
        raise _unequal("a plain one that it is copied into")
    args[0].own.copy_(_own(args[1], args[0].piece))
    return args[0]


def _same_shape(func: Any, args: Any, kwargs: Any) -> Any:
    if tuple(args[1]) != tuple(args[0].shape):
        raise _unequal("another shape of it")
    return Part(args[0].own, args[0].piece)


def _dims(first: Part, args: Any) -> tuple[list[int], bool]:
    given = args[1] if len(args) > 1 and args[1] is not None else []
    dims = [d % first.ndim for d in ([given] if isinstance(given, int) else given)] or list(range(first.ndim))
    return dims, bool(args[2]) if len(args) > 2 else False


def _reduced(first: Part, found: Tensor, dims: Sequence[int], keep: bool, operation: str, empty: float) -> Tensor:
    """One value for what is left of the dimensions, from each block's own, ``found`` with all dimensions kept."""
    shape = [1 if d in dims else n for d, n in enumerate(first.shape)]
    whole = found.new_full(shape, empty)
    if first.piece.owned and first.own.numel():
        place = tuple(slice(0, 1) if d in dims else c for d, c in enumerate(first.piece.part))
        whole[place] = found
    reduce_everywhere_(whole, operation)
    return whole if keep else whole.reshape([n for d, n in enumerate(shape) if d not in dims])


def _sum(func: Any, args: Any, kwargs: Any) -> Any:
    first, (dims, keep) = args[0], _dims(args[0], args)
    found = first.own.sum(dims, keepdim=True, **kwargs) if first.ndim else first.own.clone()
    return _reduced(first, found, dims, keep, "SUM", 0)


def _norm(func: Any, args: Any, kwargs: Any) -> Any:
    first, power = args[0], args[1] if len(args) > 1 else 2
    dims, keep = _dims(first, [first, *args[2:]])
    kind = kwargs.get("dtype") or first.dtype
    if power == 2:
        squares = first.own.to(kind).double().square()
        found = squares.sum(dims, keepdim=True) if first.ndim else squares
        return _reduced(first, found, dims, keep, "SUM", 0).sqrt().to(kind)
    if power == math.inf and first.own.numel():
        found = first.own.to(kind).abs().amax(dims, True)
        return _reduced(first, found, dims, keep, "MAX", 0)
    if power == math.inf:
        return _reduced(first, first.own.new_zeros([1] * first.ndim).to(kind), dims, keep, "MAX", 0)
    raise _unequal(f"its {power}-norm")


def _all(func: Any, args: Any, kwargs: Any) -> Any:
    return all_of(args[0].own)


def _any(func: Any, args: Any, kwargs: Any) -> Any:
    return any_of(args[0].own)


def _largest(func: Any, args: Any, kwargs: Any) -> Any:
    return extreme_of(args[0].own, smallest=func is aten.min.default)


aten = torch.ops.aten
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            *(aten.clone.default, aten.detach.default, aten.alias.default, aten._to_copy.default),
            *(aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default, aten.full_like.default),
            *(aten.contiguous.default, aten.isfinite.default, aten.lift_fresh.default),
        ),
        _like,
    ),
    **dict.fromkeys((aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default), _entrywise),
    aten.copy_.default: _copy_,
    **dict.fromkeys((aten.view.default, aten._unsafe_view.default, aten.reshape.default), _same_shape),
    **dict.fromkeys((aten.sum.default, aten.sum.dim_IntList), _sum),
    aten.linalg_vector_norm.default: _norm,
    aten.all.default: _all,
    aten.any.default: _any,
    **dict.fromkeys((aten.max.default, aten.min.default), _largest),
}
