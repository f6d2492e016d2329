"""Parameters that lie in each other's memory without being one tied tensor."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ..base.errors import UsageError


def refuse_shared_memory(model: nn.Module) -> None:
    """Refuse parameters that lie in each other's memory without being one tied tensor, or are not what it holds.

    A copy has memory of its own for each, so that what moves together in the network would move apart in it.

    Raises:
        UsageError: Naming them.
    """
    places: list[tuple[int, int, str]] = []
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter) or parameter.is_meta or not parameter.numel():
            continue
        if parameter.is_conj() or parameter.is_neg():
            fix = "give it memory of its own (.resolve_conj().resolve_neg()), and conjugate in forward"
            raise UsageError("it is a conjugate or negative view of other memory", f"parameter {name}", fix)
        start = parameter.data_ptr()
        size = parameter.nbytes if parameter.is_contiguous() else 1  # strided ones may lie between each other
        places.append((start, start + size, name))
    places.sort()
    for (_, end, first), (start, _, second) in pairwise(places):
        if start < end:
            fix = "use one Parameter under both names, and take .conj(), .real or a view of it in forward"
            raise UsageError(f"it lies in the memory of {first}, but is not tied to it", f"parameter {second}", fix)
