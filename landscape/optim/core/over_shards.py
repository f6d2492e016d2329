"""Domain losses of a step whose batch is spread over the processes that hold pieces of the weights (FSDP2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...base.errors import UsageError
from ...runtime.distributed import talking
from ...sharding.pieces import is_spread


def over_shards(
    parameters: Sequence[Tensor], losses: Tensor, counts: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | float]:
    """Mean losses and examples of the domains over all processes, and what a weight of a domain is here.

    FSDP takes the mean of the processes' gradients; so that Σ cᵢ Lᵢ of the whole batch comes out, each process takes
    cᵢ times its share of the domain's examples times the number of processes. All processes' batches are of one size.

    Args:
        parameters: The parameters.
        losses: Mean loss of each domain in this process's batch, ``(M,)``.
        counts: Examples of each, ``(M,)``.

    Returns:
        Losses and counts of the whole batch, and the factor ``(M,)``; the arguments and 1 where nothing is spread.

    Raises:
        UsageError: If the counts are missing.
    """
    mesh = next((p.device_mesh for p in parameters if is_spread(p)), None)  # type: ignore[attr-defined]
    if mesh is None or mesh.size() == 1:
        return losses, counts, 1.0
    if counts is None:
        fix = "return BatchLoss(mean, domains, counts)"
        raise UsageError("processes that share a batch need the examples of each domain", "closure", fix)
    own = counts.to(losses.dtype)
    both = torch.stack([losses.detach().where(own > 0, 0) * own, own])
    with talking():
        for i in range(mesh.ndim):
            torch.distributed.all_reduce(both, group=mesh.get_group(i))
    total = both[1]
    some = total.where(total > 0, 1)
    return both[0] / some, total, own / some * mesh.size()
