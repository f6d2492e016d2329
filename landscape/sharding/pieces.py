"""Which piece of a parameter this process holds, and how pieces become a whole parameter and gradients pieces.

`gathered` is a function of autograd that can be differentiated as often as one likes: backwards through a gathering
is a sum over processes of which each keeps its piece, and backwards through that is a gathering again. So products
with the Hessian are exact through it, which they are not through FSDP's hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..base.errors import UsageError
from ..runtime.distributed import is_distributed, talking


def is_spread(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, told without importing what most processes never need."""
    return any(kind.__name__ == "DTensor" for kind in type(tensor).__mro__)


def replicated(mesh: Any) -> list[Any]:
    """How a tensor lies of which every process of a mesh holds all."""
    from torch.distributed.tensor import Replicate

    return [Replicate()] * mesh.ndim


class Piece:
    """Where this process's piece of a parameter lies in it.

    Attributes:
        shape: Of the whole parameter.
        mesh: The processes that share it.
        placements: How, one for each dimension of the mesh.
        part: The piece as slices of the whole parameter.
        owned: Whether the piece counts as this process's in sums: of equal pieces in several processes one does.
    """

    def __init__(self, shape: Sequence[int], mesh: Any, placements: Sequence[Any], name: str) -> None:
        from torch.distributed.tensor import Replicate, Shard

        for placement in placements:
            if type(placement) not in (Shard, Replicate):
                what = f"the piece of {name} that a process holds is no block of it ({placement})"
                raise UsageError(what, "the sharded model", "shard it by FSDP or by tensor parallelism, not by both")
        self.shape, self.mesh, self.placements = tuple(shape), mesh, tuple(placements)
        self.stride = torch.empty(self.shape, device="meta").stride()
        place = mesh.get_coordinate()
        part, size = [slice(0, n) for n in self.shape], list(self.shape)
        self.owned = True
        self._cuts: list[tuple[int, int | None, int]] = []  # dimension of the mesh, of the tensor, entries before
        for i, (placement, at, count) in enumerate(zip(self.placements, place, mesh.shape, strict=True)):
            along = placement.dim if isinstance(placement, Shard) else None
            self._cuts.append((i, along, 0 if along is None else size[along]))
            if isinstance(placement, Shard):  # as torch.chunk cuts; the last pieces are the shorter ones
                d = placement.dim
                each = -(-size[d] // count)
                start = min(at * each, size[d])
                stop = min(start + each, size[d])
                part[d] = slice(part[d].start + start, part[d].start + stop)
                size[d] = stop - start
            else:
                self.owned &= at == 0
        self.part = tuple(part)
        self.local_shape = tuple(size)

    def __deepcopy__(self, memo: Any) -> Piece:
        return self

    def whole_positions(self) -> Tensor:
        """Places of the piece's entries in the flattened parameter, ascending, int64."""
        found = torch.zeros((), dtype=torch.int64)
        for cut, step in zip(self.part, self.stride, strict=True):
            found = found[..., None] + torch.arange(cut.start, cut.stop) * step
        return found.reshape(-1)

    @torch.no_grad()
    def whole(self, local: Tensor) -> Tensor:
        """The whole parameter from everybody's pieces; all processes ask."""
        found = local.detach()
        for i, along, size in reversed(self._cuts):
            if along is not None:
                found = _gather(found, along, size, self.mesh, i)
        return found

    @torch.no_grad()
    def summed(self, whole: Tensor, *, mean: bool = False) -> Tensor:
        """This process's piece of the sum (or mean) over processes of what each has for the whole parameter."""
        found = whole.detach()
        for i, along, size in self._cuts:
            found = _sum(found, self.mesh, i) if along is None else _scatter(found, along, size, self.mesh, i)
        return found.contiguous() / (self.mesh.size() if mean else 1)


def _gather(local: Tensor, along: int, size: int, mesh: Any, dim: int) -> Tensor:
    """Pieces along a dimension laid end to end; only the last ones are short, so what they lack is at the end."""
    each = -(-size // mesh.size(dim))
    own = local.movedim(along, 0).contiguous()
    if len(own) < each:
        own = torch.cat([own, own.new_zeros(each - len(own), *own.shape[1:])])
    whole = own.new_empty(mesh.size(dim) * each, *own.shape[1:])
    with talking():
        # It is called so from torch 2.13 on.
        call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        call(whole, own, group=mesh.get_group(dim))
    return whole[:size].movedim(0, along).contiguous()


def _scatter(whole: Tensor, along: int, size: int, mesh: Any, dim: int) -> Tensor:
    """One's own stretch along a dimension of the sum."""
    count, at = mesh.size(dim), mesh.get_local_rank(dim)
    each = -(-size // count)
    rows = whole.movedim(along, 0).contiguous()
    if size < count * each:
        rows = torch.cat([rows, rows.new_zeros(count * each - size, *rows.shape[1:])])
    own = rows.new_empty(each, *rows.shape[1:])
    with talking():
        call = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        call(own, rows, group=mesh.get_group(dim))
    return own[: max(0, min(each, size - at * each))].movedim(0, along)


def _sum(whole: Tensor, mesh: Any, dim: int) -> Tensor:
    found = whole.clone(memory_format=torch.contiguous_format)
    with talking():
        dist.all_reduce(found, group=mesh.get_group(dim))
    return found


def gathered(local: Tensor, piece: Piece) -> Tensor:
    """The whole parameter, differentiably.

    Its gradient is the piece of the gradients' sum where processes share examples out, and of their mean where each
    computes over all of them.
    """
    found: Tensor = _Gather.apply(local, piece, not is_distributed())  # type: ignore[no-untyped-call]
    return found


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, piece: Piece, mean: bool) -> Tensor:
        ctx.piece, ctx.mean = piece, mean
        whole = piece.whole(local)
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Reduce.apply(gradients[0], ctx.piece, ctx.mean), None, None  # type: ignore[no-untyped-call]


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, piece: Piece, mean: bool) -> Tensor:
        ctx.piece, ctx.mean = piece, mean
        return piece.summed(whole, mean=mean)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Gather.apply(gradients[0], ctx.piece, ctx.mean), None, None  # type: ignore[no-untyped-call]
