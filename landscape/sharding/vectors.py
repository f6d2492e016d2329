"""Vectors of which every process holds its pieces: they compute like any other, and nobody holds a whole one.

A `Sharded` tensor is a vector ``(n,)``, or rows of such ``(k, n)``, as all code sees it. What runs along the other
dimensions, or entry by entry, is done by each process on its own pieces. What adds up along the ``n`` entries (dot
products, norms, products of a basis with vectors) ends in one sum over processes and is a plain tensor, equal
everywhere. Anything else is refused: nothing is ever quietly that of one process alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.errors import UsageError
from .rules import Rule, all_of, any_of, everywhere, extreme_of, flat, rule_for

Number = int | float


class Layout:
    """How vectors are laid out over processes.

    A process's entries are those of its pieces, one piece after the other, what it owns before what others count.

    Attributes:
        size: Entries of a whole vector.
        local: Entries that this process holds.
        owned: How many of them, the first, count as its own.
        key: What they are entries of: vectors of equal layouts can be added.
    """

    def __init__(self, size: int, local: int, owned: int, key: Any) -> None:
        self.size, self.local, self.owned, self.key = size, local, owned, key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and (self is other or vars(self) == vars(other))

    def __hash__(self) -> int:
        return hash((self.size, self.local, self.owned))


class Sharded(Tensor):
    """A tensor of one or two dimensions, of which one, of ``n`` entries, is spread over processes.

    Attributes:
        own: This process's part, a plain tensor.
        lay: How it is laid out.
        along: Which dimension is spread.
    """

    own: Tensor
    lay: Layout
    along: int

    @staticmethod
    def __new__(cls, own: Tensor, layout: Layout, along: int = -1) -> Sharded:
        """A tensor with ``own`` as this process's part, along the last dimension or another."""
        along = along % own.ndim
        shape = list(own.shape)
        if shape[along] != layout.local:
            raise ValueError(f"{shape[along]} entries where this process holds {layout.local}")
        shape[along] = layout.size
        made: Sharded = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=own.dtype, device=own.device)
        made.own, made.lay, made.along = own, layout, along
        return made

    def __init__(self, own: Tensor, layout: Layout, along: int = -1) -> None:
        """See `__new__`."""

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"<Sharded {tuple(self.shape)} {self.dtype}, {self.lay.local} entries here>"

    def __deepcopy__(self, memo: Any) -> Sharded:
        return Sharded(self.own.clone(), self.lay, self.along)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MATMULS and args[0].ndim == 1 and args[1].ndim == 2:  # torch would squeeze the row in place
            return args[1].t().mv(args[0])
        with torch._C.DisableTorchFunctionSubclass():  # whose results would all become vectors
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return rule_for(func, _RULES, _entrywise, "vectors")(func, args, kwargs or {})


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: of a plain one all of it."""
    return tensor.own if isinstance(tensor, Sharded) else tensor


def entry_of_largest_size(vector: Tensor) -> Tensor:
    """The entry of a vector ``(n,)`` that is largest in magnitude, shape ``()``."""
    if not isinstance(vector, Sharded):
        return vector[vector.abs().argmax()]
    largest, smallest = vector.max(), vector.min()
    return torch.where(largest >= -smallest, largest, smallest)


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors begin at the same place."""
    return isinstance(a, Sharded) == isinstance(b, Sharded) and own_part(a).data_ptr() == own_part(b).data_ptr()


def like(vector: Tensor, rows: int | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for a vector, or for rows of vectors, that lie as ``vector`` does."""
    size = (vector.shape[-1],) if rows is None else (rows, vector.shape[-1])
    return vector.new_empty(size, dtype=dtype or vector.dtype)


# -- rules: what each operation does -------------------------------------------------------------------------------


def _first(args: Any, kwargs: Any = None) -> Sharded:
    return next(v for v in flat([*args, *(kwargs or {}).values()]) if isinstance(v, Sharded))


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(v, function) for v in value)
    return function(value)


def _unequal(what: str) -> UsageError:
    return UsageError(f"a vector that is spread over processes beside {what}", "the sharded model", "report this")


def _entrywise(func: Any, args: Any, kwargs: Any) -> Any:
    """Each process on its own entries; what stands beside them has one entry, or as many rows."""
    first = _first(args, kwargs)
    from_right = first.along - first.ndim

    def own(value: Any) -> Any:
        if isinstance(value, Sharded):
            if value.along - value.ndim != from_right or value.lay != first.lay:
                raise _unequal("one that is spread otherwise")
            return value.own
        if isinstance(value, Tensor) and value.ndim >= -from_right and value.shape[from_right] != 1:
            raise _unequal("a plain one")
        return value

    found = func(*_mapped(args, own), **{k: _mapped(v, own) for k, v in kwargs.items()})
    if isinstance(args[0], Sharded) and found is args[0].own:  # in place
        return args[0]
    if "out" in kwargs or not isinstance(found, Tensor):
        raise _unequal(f"the operation {func.name()}")
    return Sharded(found, first.lay, from_right)


def _like(func: Any, args: Any, kwargs: Any) -> Any:
    """The same operation on one's own entries of one tensor."""
    first = args[0]
    return Sharded(func(first.own, *args[1:], **kwargs), first.lay, first.along)


def _copy_(func: Any, args: Any, kwargs: Any) -> Any:
    to, source = args[0], args[1]
    if not isinstance(to, Sharded):
        raise _unequal("a plain one that it is copied into")
    if isinstance(source, Sharded):
        to.own.copy_(source.own)
    elif source.ndim == 0:
        to.own.copy_(source)
    else:
        raise _unequal("a plain one that is copied into it")
    return to


def _new(func: Any, args: Any, kwargs: Any) -> Any:
    """New memory: spread where the last dimension is as long as a vector."""
    first, size = args[0], list(args[1])
    if not size or size[-1] != first.lay.size:
        return func(first.own, size, *args[2:], **kwargs)
    return Sharded(func(first.own, [*size[:-1], first.lay.local], *args[2:], **kwargs), first.lay)


def _along_rows(func: Any, args: Any, kwargs: Any) -> Any:
    """Rows, or stretches of rows, of rows of vectors."""
    first, dim = args[0], args[1] if len(args) > 1 else 0
    if dim % first.ndim == first.along:
        if func is aten.slice.Tensor and (*args[2:4], first.lay.size)[0] in (None, 0) and _to_end(args, first):
            return func(first.own, dim)
        raise _unequal("the wish for some of its entries")
    found = func(first.own, *args[1:], **kwargs)
    along = first.along - first.ndim if dim % first.ndim < first.along else first.along
    if isinstance(found, (list, tuple)):
        return type(found)(Sharded(f, first.lay, along) for f in found)
    return Sharded(found, first.lay, along)


def _to_end(args: Any, first: Sharded) -> bool:
    return len(args) < 4 or args[3] is None or args[3] >= first.lay.size


def _index(func: Any, args: Any, kwargs: Any) -> Any:
    first, indices = args[0], args[1]
    if first.along != first.ndim - 1 or first.ndim != 2 or len(indices) != 1:
        raise _unequal("the wish for some of its entries")
    return Sharded(func(first.own, indices), first.lay)


def _transpose(func: Any, args: Any, kwargs: Any) -> Any:
    first = args[0]
    if func is aten.permute.default:
        order = [d % first.ndim for d in args[1]]
        return Sharded(func(first.own, order), first.lay, order.index(first.along))
    if first.ndim == 2 and (func is aten.t.default or args[1] % 2 != args[2] % 2):
        return Sharded(func(first.own, *args[1:]), first.lay, 1 - first.along)
    return Sharded(func(first.own, *args[1:]), first.lay, first.along)


def _unsqueeze(func: Any, args: Any, kwargs: Any) -> Any:
    first, dim = args[0], args[1] % (args[0].ndim + 1)
    return Sharded(func(first.own, dim), first.lay, first.along + (dim <= first.along))


def _view(func: Any, args: Any, kwargs: Any) -> Any:
    """A vector seen as itself or as one row."""
    first, size = args[0], list(args[1])
    last = size[-1] if size else 0
    rows = math.prod(size[:-1])
    if first.along != first.ndim - 1 or last not in (-1, first.lay.size) or min([0, *size[:-1]]) < 0:
        raise _unequal("another shape of it")
    if rows != first.numel() // first.lay.size:
        raise _unequal("another shape of it")
    return Sharded(func(first.own, [*size[:-1], first.lay.local]), first.lay)


def _joined(func: Any, args: Any, kwargs: Any) -> Any:
    """Rows stacked or laid under each other."""
    parts, dim = list(args[0]), args[1] if len(args) > 1 else 0
    first = _first(parts)
    rank = first.ndim + (func is aten.stack.default)
    if not all(isinstance(p, Sharded) and p.along == first.along for p in parts) or dim % rank != 0:
        raise _unequal("plain ones")
    if func is aten.cat.default and first.ndim == 1:
        raise _unequal("what would be longer")
    return Sharded(func([p.own for p in parts], dim), first.lay, first.along - first.ndim)


def _counted(tensor: Sharded) -> Tensor:
    """The entries that count as this process's."""
    return tensor.own.narrow(tensor.along, 0, tensor.lay.owned)


def _product(func: Any, args: Any, kwargs: Any) -> Any:
    """``dot``, ``mv`` and ``mm``: summed over processes where both are spread along what is summed."""
    a, b = args
    inner_a = isinstance(a, Sharded) and a.along == a.ndim - 1
    inner_b = isinstance(b, Sharded) and b.along == 0
    if inner_a and inner_b:
        return everywhere(func(_counted(a), _counted(b)))
    if inner_a or inner_b:
        raise _unequal("a plain one that it is multiplied with")
    if isinstance(a, Sharded) and isinstance(b, Sharded):
        raise _unequal("one of which a whole matrix would be made")
    if isinstance(a, Sharded):
        return Sharded(func(a.own, b), a.lay, 0)
    return Sharded(func(a, b.own), b.lay, -1)


def _addmm_(func: Any, args: Any, kwargs: Any) -> Any:
    to, a, b = args
    if to.along != 1 or isinstance(a, Sharded) or not (isinstance(b, Sharded) and b.along == 1):
        raise _unequal("others that it is added to")
    to.own.addmm_(a, b.own, **kwargs)
    return to


def _dims(first: Sharded, dim: Any) -> list[int]:
    given = [] if dim is None else [dim] if isinstance(dim, int) else list(dim)
    return [d % first.ndim for d in given] or list(range(first.ndim))


def _sum(func: Any, args: Any, kwargs: Any) -> Any:
    first, dims = args[0], _dims(args[0], args[1] if len(args) > 1 else None)
    keep = bool(args[2]) if len(args) > 2 else False
    if first.along not in dims:
        along = first.along if keep else first.along - sum(d < first.along for d in dims)
        return Sharded(first.own.sum(dims, keepdim=keep, **kwargs), first.lay, along)
    return everywhere(_counted(first).sum(dims, keepdim=keep, **kwargs))


def _norm(func: Any, args: Any, kwargs: Any) -> Any:
    first, power = args[0], args[1] if len(args) > 1 else 2
    dims = _dims(first, args[2] if len(args) > 2 else None)
    keep = bool(args[3]) if len(args) > 3 else False
    if first.along not in dims:
        raise _unequal("norms across its rows")
    own = _counted(first)
    if power == 2:
        # The largest entry first: squares of large ones would overflow as they do not in one process.
        found: Tensor = torch.linalg.vector_norm(own, 2, dims, keep, **kwargs)
        return everywhere(found.double().square()).sqrt().to(found.dtype)
    if power == math.inf:
        sizes = own.abs().amax(dims, keep) if own.numel() else own.new_zeros(()).expand(_kept(first, dims, keep))
        return everywhere(sizes.clone(), "MAX")
    raise _unequal(f"its {power}-norm")


def _kept(first: Sharded, dims: Sequence[int], keep: bool) -> list[int]:
    return [1 if i in dims else n for i, n in enumerate(first.shape) if keep or i not in dims]


def _all(func: Any, args: Any, kwargs: Any) -> Any:
    return all_of(_counted(args[0]))


def _any(func: Any, args: Any, kwargs: Any) -> Any:
    return any_of(_counted(args[0]))


def _equal(func: Any, args: Any, kwargs: Any) -> bool:
    a, b = args
    if not (isinstance(a, Sharded) and isinstance(b, Sharded) and a.lay == b.lay):
        raise _unequal("a plain one that it is compared with")
    return bool(everywhere(a.own.new_tensor(float(not torch.equal(a.own, b.own)))) == 0)


def _largest(func: Any, args: Any, kwargs: Any) -> Any:
    return extreme_of(_counted(args[0]), smallest=func is aten.min.default)


def _qr(func: Any, args: Any, kwargs: Any) -> Any:
    """Of columns, one after the other, each made orthogonal to those before it twice."""
    first = args[0]
    if first.along != 0:
        raise _unequal("the wish to decompose it across")
    columns = first.t()
    k = len(columns)
    q = torch.zeros_like(columns)
    r = torch.zeros(k, k, dtype=first.dtype, device=first.device)
    for j in range(k):
        rest = columns[j].clone()
        for _ in range(2):
            if j:
                inside = q[:j].mv(rest)
                rest = rest - q[:j].t().mv(inside)
                r[:j, j] += inside
        size = torch.linalg.vector_norm(rest)
        r[j, j] = size
        q[j] = rest / size.clamp_min(torch.finfo(first.dtype).tiny)
    return q.t(), r


_MATMULS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
aten = torch.ops.aten
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            *(aten.clone.default, aten.detach.default, aten.alias.default, aten._to_copy.default),
            *(aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default, aten.full_like.default),
            aten.contiguous.default,
        ),
        _like,
    ),
    **dict.fromkeys((aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default), _entrywise),
    aten.copy_.default: _copy_,
    **dict.fromkeys((aten.new_empty.default, aten.new_zeros.default, aten.new_full.default), _new),
    aten.new_ones.default: _new,
    **dict.fromkeys((aten.select.int, aten.slice.Tensor, aten.unbind.int), _along_rows),
    aten.index.Tensor: _index,
    **dict.fromkeys((aten.t.default, aten.permute.default, aten.transpose.int), _transpose),
    aten.unsqueeze.default: _unsqueeze,
    **dict.fromkeys((aten.view.default, aten._unsafe_view.default, aten.reshape.default), _view),
    **dict.fromkeys((aten.stack.default, aten.cat.default), _joined),
    **dict.fromkeys((aten.dot.default, aten.mv.default, aten.mm.default), _product),
    aten.addmm_.default: _addmm_,
    **dict.fromkeys((aten.sum.default, aten.sum.dim_IntList), _sum),
    aten.linalg_vector_norm.default: _norm,
    aten.equal.default: _equal,
    aten.all.default: _all,
    aten.any.default: _any,
    **dict.fromkeys((aten.max.default, aten.min.default), _largest),
    aten.linalg_qr.default: _qr,
}
