"""Sparse gradients (of embeddings): dense while a method computes with them, sparse again for the base optimizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...base.errors import UsageError


class SparseGradients:
    """Which entries the gradients of one step have.

    A method mixes gradients of several weights, whose entries may differ, and the copy of the weights that it keeps
    is a dense one anyway. The base receives the entries of all passes and those where the result is not zero:
    ``SparseAdam`` also moves a row whose gradient happens to be zero.
    """

    def __init__(self) -> None:
        self._entries: dict[nn.Parameter, list[Tensor]] = {}

    def to_dense(self, parameters: list[nn.Parameter]) -> None:
        """Make every ``.grad`` a strided tensor that says what it holds.

        Raises:
            UsageError: If a gradient has a layout other than strided or COO.
        """
        for p in parameters:
            g = p.grad
            if g is None or (g.layout is torch.strided and not g.is_conj()):
                continue
            if g.layout is torch.strided:
                p.grad = g.resolve_conj()  # a lazily conjugated tensor has no real view
            elif g.layout is torch.sparse_coo:
                self._entries.setdefault(p, []).append(g._indices())
                p.grad = g.to_dense()
            else:
                raise UsageError(f"a gradient of layout {g.layout}", "closure", "give strided or COO gradients")

    def to_sparse(self) -> None:
        """Give the gradients of those parameters back their layout."""
        for p, entries in self._entries.items():
            if p.grad is None or p.grad.layout != torch.strided:
                continue
            sparse_dims = len(entries[0])
            shape = p.grad.shape[:sparse_dims]
            there = (p.grad != 0).reshape(*shape, -1).any(-1)
            for indices in entries:
                there[tuple(indices)] = True
            where = there.nonzero().T
            values = p.grad[tuple(where)]
            p.grad = torch.sparse_coo_tensor(where, values, p.grad.shape, check_invariants=False, is_coalesced=True)
